"""The way of an exam question from the spec to the record on disk, at a stub endpoint on this machine.

rate: `jobs.predict` asks questions with 512 in flight; requests/s from the first one sent to the last answer, and the
CPU of the batching actors meanwhile. Beside it, in the same run, a bare aiohttp client that records nothing.
overlap: the wall time of `jobs.evaluate` with a judge at another endpoint against `jobs.predict` alone, in turns. The
endpoint's latency decides how long predictions take; what judging adds is its overhead and the last answer's verdict.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.client import MESSAGES  # noqa: E402
from benchmarks.scale import write_exam  # noqa: E402
from benchmarks.stub import running  # noqa: E402

WINDOW = 512
LATENCY = 0.2  # seconds
OVERLAP_WINDOW, OVERLAP_LATENCY = 64, 2.0


def job(module: str, run: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, f"run={run}", "model=stub", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def rate(questions: int, folder: Path, base_url: str) -> dict[str, Any]:
    exam = write_exam(folder / "exam.jsonl", questions)
    run = folder / "rate"
    predictions = run / "predictions.jsonl"
    with job("jobs.predict", run, f"dataset={exam}", f"base_url={base_url}", f"num_workers={WINDOW}") as driver:
        before = after = 0.0
        while driver.poll() is None:
            with suppress(psutil.NoSuchProcess):
                after = max(after, actors_cpu())
            if not predictions.exists() or not predictions.stat().st_size:
                before = after
            time.sleep(0.2)
    records = [json.loads(line) for line in predictions.open()]
    if driver.returncode or len(records) != questions:
        raise SystemExit(f"the job ended with {driver.returncode} and {len(records)} of {questions} records")
    starts = [datetime.fromisoformat(record["started_at"]).timestamp() for record in records]
    ends = [start + record["seconds"] for start, record in zip(starts, records, strict=True)]
    return {
        "requests_per_second": round(questions / (max(ends) - min(starts))),
        "client_cpu_ms_per_request": round(1000 * (after - before) / questions, 3),
    }


def actors_cpu() -> float:
    """Seconds of CPU of all batching actors so far."""
    seconds = 0.0
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or []).startswith("ray::MapWorker"):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


async def bare(questions: int, base_url: str) -> float:
    """Requests/s of aiohttp alone: the same bodies, answers read and thrown away."""
    import aiohttp

    body = json.dumps({"model": "stub", "messages": MESSAGES}).encode()
    left = iter(range(questions))

    async def worker(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{base_url}/chat/completions", data=body) as answer:
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.monotonic()
        await asyncio.gather(*(worker(session) for _ in range(WINDOW)))
        return questions / (time.monotonic() - began)


def overlap(questions: int, rounds: int, folder: Path) -> dict[str, Any]:
    exam = write_exam(folder / "overlap.jsonl", questions)
    with running(OVERLAP_LATENCY) as asked, running(OVERLAP_LATENCY, verdict=True) as judge:
        common = (f"dataset={exam}", f"base_url={asked}", f"num_workers={OVERLAP_WINDOW}")
        judged = ("judge=stub", f"judge_base_url={judge}", f"judge_num_workers={OVERLAP_WINDOW}")
        seconds: dict[str, list[float]] = {"jobs.predict": [], "jobs.evaluate": []}
        for number in range(rounds):
            for module, more in (("jobs.predict", ()), ("jobs.evaluate", judged)):
                began = time.monotonic()
                with job(module, folder / f"{module}{number}", *common, *more) as driver:
                    pass
                if driver.returncode:
                    raise SystemExit(f"{module} ended with {driver.returncode}")
                seconds[module].append(round(time.monotonic() - began, 1))
    medians = {module: statistics.median(values) for module, values in seconds.items()}
    return {"seconds": seconds, "ratio": round(medians["jobs.evaluate"] / medians["jobs.predict"], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["rate", "overlap"], help="default: both")
    parser.add_argument("--questions", type=int, default=30_000, help="of the rate; overlap has a tenth")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    what = [args.what] if args.what else ["rate", "overlap"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "rate" in what:
            with running(LATENCY) as base_url:
                for _ in range(args.rounds):
                    figures = {"bare_per_second": round(asyncio.run(bare(args.questions, base_url)))}
                    with tempfile.TemporaryDirectory(dir=folder) as inner:
                        figures |= rate(args.questions, Path(inner), base_url)
                    print(json.dumps({"rate": figures}), flush=True)
        if "overlap" in what:
            print(json.dumps({"overlap": overlap(args.questions // 10, args.rounds, folder)}), flush=True)


if __name__ == "__main__":
    main()
