"""A run of 100,000 questions against a stub server: the driver's memory, the writer's log, reopening, throughput.

Growth of memory is the driver's peak over that of the same job with 100 questions, so that imports do not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.stub import running  # noqa: E402

SMALL = 100
LATENCY = 0.2  # seconds


def write_exam(path: Path, questions: int) -> Path:
    categories = ["Math", "Physics", "Chemistry", "Engineering"]
    with path.open("w") as file:
        for number in range(questions):
            row = {
                "id": f"{number:024x}",
                "question": f"What is {number} plus one? {'Think of it step by step. ' * 8}",
                "answer": str(number + 1),
                "answer_type": "exactMatch",
                "category": categories[number % len(categories)],
                "image": "",
            }
            file.write(json.dumps(row) + "\n")
    return path


def measure(questions: int, base_url: str, folder: Path) -> dict[str, Any]:
    """Run the job and read the driver's own peak of resident memory (VmHWM, MB) until it ends."""
    exam = write_exam(folder / f"exam{questions}.jsonl", questions)
    run = folder / f"run{questions}"
    arguments = [f"dataset={exam}", "model=stub", f"base_url={base_url}", f"run={run}", "num_workers=512"]
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.evaluate", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as job:
        peak = anonymous = 0.0
        while job.poll() is None:
            status = read_status(job.pid)
            peak, anonymous = max(peak, status.get("VmHWM", 0)), max(anonymous, status.get("RssAnon", 0))
            time.sleep(0.1)
    if job.returncode != 0:
        raise SystemExit(f"the job ended with {job.returncode}")
    lines = sum(1 for _ in (run / "predictions.jsonl").open("rb"))
    if lines != questions:
        raise SystemExit(f"{lines} records for {questions} questions")
    return {"peak_mb": peak, "anonymous_mb": anonymous, "seconds": time.monotonic() - started, "run": str(run)}


def read_status(pid: int) -> dict[str, float]:
    """Memory figures of a process in MB; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}


def reopen(run: str) -> float:
    """Seconds to open both logs as the writer does at the start of a job, in a process of its own."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from orchestrator.records.log import RecordLog\n"
        "from orchestrator.records.types import answer_key, verdict_key\n"
        "from orchestrator.records.writer import _prediction_state, _judgement_state\n"
        "start = time.monotonic(); folder = Path(sys.argv[1])\n"
        "a = RecordLog(folder / 'predictions.jsonl', answer_key, _prediction_state)\n"
        "b = RecordLog(folder / 'judgements.jsonl', verdict_key, _judgement_state)\n"
        "print(time.monotonic() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code, run], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(LATENCY) as base_url:
        small = measure(SMALL, base_url, Path(name))
        large = measure(args.questions, base_url, Path(name))
        log_mb = (Path(large["run"]) / "predictions.jsonl").stat().st_size / 2**20
        figures = {
            "questions": args.questions,
            "driver_growth_mb": round(large["peak_mb"] - small["peak_mb"], 1),
            "driver_anonymous_growth_mb": round(large["anonymous_mb"] - small["anonymous_mb"], 1),
            "reopen_seconds": round(reopen(large["run"]), 2),
            "predictions_log_mb": round(log_mb, 1),
            "seconds": round(large["seconds"], 1),
            "seconds_of_a_small_run": round(small["seconds"], 1),
        }
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        for figure, value in figures.items():
            print(f"{figure:28} {value}")


if __name__ == "__main__":
    main()
