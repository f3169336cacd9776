"""Training on real GPUs, proved: chapters at once, each on a GPU and a cluster of its own, or one on all of them.

    python benchmarks/training_on_gpus.py --gpus 0 1 2 3                       # all but `scaling`
    python benchmarks/training_on_gpus.py --gpus 1 1 --chapters ppo chain      # both on the second GPU
    python benchmarks/training_on_gpus.py --gpus 0 1 2 3 --chapters scaling    # 1, 2 and 4 GPUs

ppo        a 0.6B shape is rewarded for digits, 25 steps, vLLM answering
chain      a 0.6B shape learns lines by heart: stopped, resumed, merged, served, and asked for the lines
variants   what each choice of jobs.sft does to a step of the 4B shape (sft_variants.py), and its kernels
lora       8B with LoRA
pipeline   conf/pipelines/demo-rl.yaml on a GPU: fine-tuned, examined, rewarded, examined again
scaling    jobs.sft of the 4B shape on all GPUs, half of them, … 1, equal batch a GPU

No network is needed. Each chapter's output goes to OUT/CHAPTER.log, the figures to OUT/CHAPTER.jsonl and the screen.
"""

import argparse
import json
import os
import random
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from shapes import make_model  # noqa: E402

from orchestrator.training.folder import TrainingFolder, loss_curve, read_journal  # noqa: E402

LINES = 32  # that the chain's model learns by heart
SYSTEM_PROMPT = "Answer from memory."
CHAIN_STEPS, STOP_AFTER = 160, 40
SHARE = 0.3  # of a GPU's memory for vLLM: chapters may share one
COPIES = 40  # of each line in the training's file: an epoch is as many steps
GRACE = 60  # seconds for a job that was stopped
CLUSTER_TRIES = 3  # clusters that start together may choose the same ports


@dataclass
class Chapter:
    """Where one chapter works, on which GPUs, and until when."""

    name: str
    work: Path
    out: Path
    gpus: list[int]
    deadline: float  # of time.monotonic
    shape: str
    device: str
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        visible = ",".join(map(str, self.gpus))
        own = {"KOSEN_HOME": str(self.work / "home"), "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor")}
        self.environment = {**os.environ, **own, "PYTHONUNBUFFERED": "1"}
        if self.device == "cuda":
            self.environment["CUDA_VISIBLE_DEVICES"] = visible

    def start(self, *command: str) -> "subprocess.Popen[str]":
        log = (self.out / f"{self.name}.log").open("a")
        print(f"\n$ {' '.join(command)}", file=log, flush=True)
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Exit code and standard output, which also goes to the log. At the deadline the command is interrupted."""
        process = self.start(*command)
        try:
            out, _ = process.communicate(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                out, _ = process.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, _ = process.communicate()
            self.report(timed_out=" ".join(command[:3]))
        with (self.out / f"{self.name}.log").open("a") as log:
            log.write(out)
        return process.returncode, out

    def report(self, **figures: Any) -> None:
        line = json.dumps({"chapter": self.name, **figures})
        print(line, flush=True)
        with (self.out / f"{self.name}.jsonl").open("a") as file:
            file.write(line + "\n")

    def cluster_up(self) -> None:
        for _ in range(CLUSTER_TRIES):
            code, _out = self.run("-m", "cluster", "up")
            if code == 0:
                return
        raise RuntimeError(f"{self.name}: no cluster, see its log")

    def benchmark(self, program: str, *arguments: str) -> None:
        """Run a program of this folder and pass on the lines of figures that it prints."""
        _, out = self.run(f"benchmarks/{program}.py", *arguments)
        for line in out.splitlines():
            if line.startswith("{"):
                self.report(figures=json.loads(line))


def variants(chapter: Chapter) -> None:
    shape = ["4b", "--length", "4096", "--rows", "16"] if chapter.device == "cuda" else ["tiny", "--length", "32"]
    work = ["--work", str(chapter.work), "--steps", "6" if chapter.device == "cuda" else "3", "--profile"]
    chapter.benchmark("sft_variants", *shape, *work, "--variants", "ours", "cudnn", "packed", "--micro", "2")
    chapter.benchmark("sft_variants", *shape, *work, "--variants", "ours", "reshard", "eager")
    kernels = sorted(chapter.work.glob("*-kernels.txt"))
    (chapter.out / "kernels.txt").write_text("\n\n".join(f"# {path.name}\n{path.read_text()}" for path in kernels))


def lora(chapter: Chapter) -> None:
    chapter.cluster_up()
    big = (["8b", "--length", "2048"] if chapter.device == "cuda" else ["tiny", "--length", "32"]) + ["--batch", "16"]
    keys = ["lora.rank=16", "--steps", "8", "--micro", "4", "verl.checkpoint.save_contents=[extra]"]
    chapter.benchmark("training", "sft", *big, *keys, "--work", str(chapter.work))


def chain(chapter: Chapter) -> None:
    """The same command before and after the stop; then what was learned is asked for."""
    model, rows, exam = chapter.work / "model", chapter.work / "lines.jsonl", chapter.work / "exam.jsonl"
    parameters = make_model(model, chapter.shape, vocabulary=512)
    lines = _write_lines(rows, exam)
    run = chapter.work / "run"
    size = [f"batch_size={LINES}", f"micro_batch_size={LINES}", "max_length=256", "epochs=100", "save_every=1000"]
    keys = [f"model={model}", f"train={rows}", f"run={run}", *size, f"max_steps={CHAIN_STEPS}", "lr=3e-4"]
    chapter.cluster_up()
    began = time.monotonic()
    job = chapter.start("-m", "jobs.sft", *keys)
    while job.poll() is None and _steps(run) < STOP_AFTER and time.monotonic() < chapter.deadline:
        time.sleep(0.5)
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGTERM)
    job.communicate()
    stopped_at, first = _steps(run), time.monotonic() - began
    code, _ = chapter.run("-m", "jobs.sft", *keys)
    losses = loss_curve(TrainingFolder(run), "train/loss")
    around = {step: round(losses[step], 4) for step in range(stopped_at - 1, stopped_at + 3) if step in losses}
    times = [line["metrics"].get("seconds") for line in read_journal(TrainingFolder(run)) if line["event"] == "step"]
    chapter.report(
        parameters=parameters,
        stopped=[job.returncode, stopped_at, round(first)],
        resumed=[code, len(losses), round(time.monotonic() - began - first)],
        losses=[round(losses[min(losses)], 4), around, round(losses[max(losses)], 6)] if losses else None,
        step_s=sorted(filter(None, times))[len(times) // 2] if times else None,
    )
    code, _ = chapter.run("-m", "jobs.merge", f"run={run}", f"out={chapter.work / 'merged'}")
    serving = ["serving.max_model_len=256", "serving.max_num_seqs=32", f"serving.gpu_memory_utilization={SHARE}"]
    asked = [f"model={chapter.work / 'merged'}", f"dataset={exam}", f"run={chapter.work / 'exam'}", "temperature=0"]
    prompt = [f"system_prompt={_prompt_file(chapter.work)}", "max_completion_tokens=128", "judge=rule"]
    began = time.monotonic()
    served, _ = chapter.run("-m", "jobs.evaluate", *asked, *prompt, *serving)
    records = chapter.work / "exam" / "predictions.jsonl"
    answers = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    right = sum(_answer(record) == lines.get(record.get("id", "")) for record in answers)
    chapter.report(merged=code, served=served, right=f"{right} of {LINES}", seconds=round(time.monotonic() - began))


def _write_lines(rows: Path, exam: Path) -> dict[str, str]:
    """Questions with random answers; the answer by question id."""
    rng = random.Random(0)
    answers: dict[str, str] = {}
    with rows.open("w") as training, exam.open("w") as asked:
        for number in range(LINES):
            key, answer = f"q{number}", "".join(rng.choices(string.ascii_lowercase, k=24))
            question = f"What is line {number}?"
            turns = [("system", SYSTEM_PROMPT), ("user", question), ("assistant", answer)]
            training.write((json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n") * COPIES)
            row = {"id": key, "question": question, "answer": answer, "answer_type": "exactMatch"}
            asked.write(json.dumps(row | {"category": "Other", "image": ""}) + "\n")
            answers[key] = answer
    return answers


def _prompt_file(work: Path) -> Path:
    path = work / "system.txt"
    path.write_text(SYSTEM_PROMPT)
    return path


def _answer(record: dict[str, Any]) -> str | None:
    text = record.get("response")
    return text.strip() if isinstance(text, str) else None


def _steps(run: Path) -> int:
    return sum(line["event"] == "step" for line in read_journal(TrainingFolder(run)))


def ppo(chapter: Chapter) -> None:
    chapter.cluster_up()
    size = (
        ["--batch", "64", "--micro", "16", "--steps", "25"]
        if chapter.device == "cuda"
        else ["--batch", "16", "--steps", "3"]
    )
    keys = ["lr=1e-5", "algorithm=grpo", "kl_coef=0", f"rollout.gpu_memory_utilization={SHARE}"]
    chapter.benchmark("training", "ppo", chapter.shape, *size, *keys, "--work", str(chapter.work))


def pipeline(chapter: Chapter) -> None:
    import yaml

    spec = yaml.safe_load((ROOT / "conf" / "pipelines" / "demo-rl.yaml").read_text())
    for name in ("sft", "rl"):
        spec["steps"][name]["arguments"].append(f"device={chapter.device}")
    path = chapter.work / "demo-rl.yaml"
    path.write_text(yaml.safe_dump(spec))
    began = time.monotonic()
    code, out = chapter.run("-m", "jobs.pipeline", "--config", str(path), f"run={chapter.work / 'demo-rl'}")
    chapter.report(exit_code=code, seconds=round(time.monotonic() - began), table=out.splitlines()[-12:])


def scaling(chapter: Chapter) -> None:
    chapter.cluster_up()
    counts = [count for count in (8, 4, 2, 1) if count <= len(chapter.gpus)]
    shape = ["4b", "--length", "4096"] if chapter.device == "cuda" else ["tiny", "--length", "64"]
    for count in counts:
        size = ["--batch", str(16 * count), "--micro", "2", "--steps", "8", "--name", f"sft-{count}"]
        keys = [
            f"workers={count}",
            "packing=false",
            "gradient_checkpointing=false",
            "verl.checkpoint.save_contents=[extra]",
        ]
        chapter.benchmark("training", "sft", *shape, *size, *keys, "--work", str(chapter.work))


CHAPTERS: dict[str, Callable[[Chapter], None]] = {
    "ppo": ppo,
    "chain": chain,
    "variants": variants,
    "lora": lora,
    "pipeline": pipeline,
    "scaling": scaling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chapters", nargs="+", choices=CHAPTERS, default=[name for name in CHAPTERS if name != "scaling"]
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[0, 1, 2, 3], help="of this host, one for a chapter")
    parser.add_argument("--seconds", type=float, default=540, help="after which what still runs is interrupted")
    parser.add_argument("--shape", default="0.6b", help="of chain and ppo")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this program, with --shape tiny"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/kosen-gpus"))
    parser.add_argument("--out", type=Path, default=Path("/tmp/kosen-gpus/out"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + args.seconds
    alone = len(args.chapters) == 1
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for share in [args.gpus] if alone else [[gpu] for gpu in args.gpus]:
        shares.put(share)

    def tell(name: str) -> None:
        gpus = shares.get()
        _tell(Chapter(name, args.work / name, args.out, gpus, deadline, args.shape, args.device))
        shares.put(gpus)

    with ThreadPoolExecutor(len(args.gpus) if args.device == "cuda" else 1) as pool:
        list(pool.map(tell, args.chapters))


def _tell(chapter: Chapter) -> None:
    began = time.monotonic()
    try:
        CHAPTERS[chapter.name](chapter)
    except (RuntimeError, OSError, ValueError) as error:  # the others keep running
        chapter.report(failed=f"{type(error).__name__}: {error}")
    finally:
        chapter.deadline = time.monotonic() + 60
        chapter.run("-m", "cluster", "down", "--name", "local")
        chapter.report(ended_after_s=round(time.monotonic() - began))


if __name__ == "__main__":
    main()
