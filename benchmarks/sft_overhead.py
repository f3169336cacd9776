"""The time of a fine-tuning step: Kosen's driver in Ray Train beside plain torchrun with verl's own trainer.

    python benchmarks/sft_overhead.py [--processes 1] [--rounds 3] [--steps 40]

Both train the same tiny model with the same keys, in turns, so that a noisy machine disturbs both. A step is the time
from one logged step to the next; the first steps of each run are left out. The model is so small that what Kosen adds
to a step (an agreement among the ranks, a line in the journal) weighs more than it ever does in earnest.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "orchestrator" / "training")]

from harness import local_cluster, run  # noqa: E402
from sft_runs import make_sft_data, make_sft_run, sft_overrides, write_rows  # noqa: E402

from orchestrator.training.environment import worker_env  # noqa: E402
from orchestrator.training.folder import read_journal  # noqa: E402

BATCH = 32
WARM_UP = 5  # steps
STEP_LINE = re.compile(r"(^|\])step:\d+ - ")


def keys(steps: int) -> list[str]:
    return [
        f"data.train_batch_size={BATCH}",
        "data.micro_batch_size_per_gpu=16",
        "data.val_files=null",
        f"trainer.total_training_steps={steps}",
        f"trainer.total_epochs={steps}",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
    ]


def kosen(data: Path, path: Path, processes: int, steps: int) -> list[float]:
    """Seconds of each step, as the journal has them."""
    folder = make_sft_run(data, path, *keys(steps), processes=processes)
    done = run("orchestrator.training.sft_driver", str(folder.path), timeout=600)
    assert done.returncode == 0, done.stderr
    times = [
        datetime.fromisoformat(line["time"]).timestamp() for line in read_journal(folder) if line["event"] == "step"
    ]
    return [later - earlier for earlier, later in pairwise(times)]


def plain(data: Path, path: Path, processes: int, steps: int) -> list[float]:
    """Seconds of each step, from the moments at which verl prints them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "verl.trainer.sft_trainer", *sft_overrides(data, path, processes), *keys(steps)]
    environment = os.environ | worker_env(cpu=True) | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    times, output = [], []
    with subprocess.Popen(
        command, cwd=data, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if STEP_LINE.search(line):
                times.append(time.time())
    assert process.returncode == 0, "".join(output[-30:])
    assert len(times) == steps, f"{len(times)} of {steps} steps seen"
    return [later - earlier for earlier, later in pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for both
    seconds: dict[str, list[float]] = {"kosen": [], "torchrun": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        data = make_sft_data(home / "data")
        write_rows(data / "train.parquet", 8 * BATCH)
        with local_cluster(home / "kosen"):
            for number in range(arguments.rounds):
                for name, measure in (("kosen", kosen), ("torchrun", plain)):
                    found = measure(data, home / f"{name}-{number}", arguments.processes, arguments.steps)[WARM_UP:]
                    print(
                        f"round {number + 1} {name}: median {1000 * statistics.median(found):.1f} ms", file=sys.stderr
                    )
                    seconds[name] += found
    ours, theirs = ([1000 * value for value in seconds[name]] for name in ("kosen", "torchrun"))
    figures = {"processes": arguments.processes, "steps": len(ours)}
    figures |= compare("median", statistics.median(ours), statistics.median(theirs))
    figures |= compare("fastest_tenth", statistics.quantiles(ours, n=10)[0], statistics.quantiles(theirs, n=10)[0])
    print(json.dumps(figures))


def compare(name: str, ours: float, theirs: float) -> dict[str, float]:
    """Milliseconds of both and their ratio. The fastest tenth is what is left when others use the machine too."""
    return {
        f"{name}_ms": round(ours, 2),
        f"{name}_torchrun_ms": round(theirs, 2),
        f"{name}_ratio": round(ours / theirs, 4),
    }


if __name__ == "__main__":
    main()
