"""How fast `jobs.sft` trains a model of a real shape, and whether `jobs.ppo` learns: one line of figures a run.

python benchmarks/training.py sft 4b --length 4096 --batch 8 --micro 2            # full rows
python benchmarks/training.py sft 8b --length 2048 --batch 8 lora.rank=16         # any key of the spec
python benchmarks/training.py ppo 0.6b --batch 64 --steps 25                      # the reward is the share of digits

Weights are random: speed does not depend on them, and a reward that random weights can raise is enough to see learning.
The first two steps of each run are left out, which warm up.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from shapes import PEAK, SHAPES, flops_per_token, make_model, template_overhead, write_rows  # noqa: E402

from orchestrator.training.folder import TrainingFolder, read_journal  # noqa: E402

WARM_UP = 2  # steps
SMALL_VOCABULARY = 128  # for ppo: about the tokenizer's own, so that random weights give readable characters


def main() -> None:
    args = _arguments()
    model = args.work / f"{args.shape}-{args.job}"
    if not (model / "config.json").exists():
        vocabulary = {} if args.job == "sft" else {"vocabulary": SMALL_VOCABULARY}
        print(f"{model}: {make_model(model, args.shape, **vocabulary):,} parameters", flush=True)
    run = args.work / f"{args.name or args.shape + '-' + args.job}"
    keys = _sft(args, model) if args.job == "sft" else _ppo(args, model)
    command = [sys.executable, "-m", f"jobs.{args.job}", *keys, f"model={model}", f"run={run}", *args.keys]
    signal.signal(signal.SIGTERM, lambda *_: None)  # the job is told too; what it did until then is a figure
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    figures = _speed(run, model, args) if args.job == "sft" else _learning(run)
    print(json.dumps({"name": run.name, "exit_code": code, "command": " ".join(command[1:]), **figures}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["sft", "ppo"])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--work", type=Path, default=Path("/tmp/kosen-training"), help="models, data and runs")
    parser.add_argument("--name", help="of the run's folder")
    parser.add_argument("--length", type=int, nargs="+", default=[4096], help="tokens a row, or the least and the most")
    parser.add_argument("--batch", type=int, default=8, help="rows, or prompts, a step")
    parser.add_argument("--micro", type=int, default=1, help="rows at once on a GPU")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("keys", nargs="*", help="further keys of the spec")
    return parser.parse_intermixed_args()


def _sft(args: argparse.Namespace, model: Path) -> list[str]:
    rows = args.work / f"rows-{'-'.join(map(str, args.length))}.jsonl"
    length = args.length[0] if len(args.length) == 1 else (args.length[0], args.length[1])
    write_rows(rows, args.batch * args.steps, length, template_overhead(model))
    batch = [f"batch_size={args.batch}", f"micro_batch_size={args.micro}", f"max_length={max(args.length)}"]
    return [f"train={rows}", *batch, f"max_steps={args.steps}", f"save_every={args.steps}", "lr=1e-5"]


def _ppo(args: argparse.Namespace, model: Path) -> list[str]:
    prompts = args.work / "prompts.jsonl"
    lines = [json.dumps({"question": f"Say digits, number {n}.", "answer": "0"}) for n in range(512)]
    prompts.write_text("\n".join(lines) + "\n")
    batch = [f"batch_size={args.batch}", f"micro_batch_size={args.micro}", f"max_steps={args.steps}", "epochs=100"]
    rollout = ["rollout.max_prompt_length=64", "rollout.max_response_length=32"]
    reward = f"reward={Path(__file__).with_name('digits_reward.py').relative_to(ROOT)}"
    return [f"train={prompts}", *batch, *rollout, reward, f"save_every={args.steps}"]


def _steps(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_journal(TrainingFolder(run)) if line["event"] == "step"]


def _speed(run: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the steps. MFU counts each row with its own length, and no recomputation."""
    steps = [line["metrics"] for line in _steps(run) if "seconds" in line["metrics"]][WARM_UP:]
    if not steps:
        return {"seconds": None, "tokens_per_second": None, "mfu": None}
    config = json.loads((model / "config.json").read_text())
    seconds = statistics.median(step["seconds"] for step in steps)
    rate = statistics.median(step["tokens_per_second"] for step in steps)
    gpus = _workers(run)
    flops = flops_per_token(config, args.length[0]) if len(args.length) == 1 else None
    return {
        "steps": len(steps),
        "gpus": gpus,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(rate),
        "tokens_per_second_per_gpu": round(rate / gpus),
        "mfu": round(rate / gpus * flops / PEAK, 4) if flops else None,
        "peak_memory_gb": max((step.get("perf/max_memory_allocated_gb", 0) for step in steps), default=None),
    }


def _workers(run: Path) -> int:
    import yaml

    trainer = yaml.safe_load((run / "verl.yaml").read_text())["trainer"]
    return int(trainer["nnodes"] * trainer["n_gpus_per_node"])


def _learning(run: Path) -> dict[str, Any]:
    rewards = [line["metrics"].get("critic/score/mean") for line in _steps(run)]
    return {"reward": [None if reward is None else round(reward, 3) for reward in rewards], "step_s": _step_times(run)}


def _step_times(run: Path) -> Sequence[float]:
    return [round(line["metrics"]["timing_s/step"], 2) for line in _steps(run) if "timing_s/step" in line["metrics"]]


if __name__ == "__main__":
    main()
