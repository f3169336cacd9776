"""From sbatch to a ready cluster on real Slurm, ours beside the seeds' way, in one run.

    python benchmarks/cluster_up.py [--runs 5] [--nodes 2 4]

Needs root: it makes a small Slurm cluster of namespaces on this machine (tests/support/mini_slurm.py), whose nodes
share the machine's cores. The seeds' way is `ray start` with their sleeps: 30 s for the head, 15 s a worker, 30 s for
all to settle.
Ready means for ours: checked, measured, every node and job agent answering; for theirs: the script says so.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.mini_slurm import MiniSlurm  # noqa: E402
from tests.support.slurm_harness import Kosen  # noqa: E402

SEEDS = """#!/bin/bash
#SBATCH --ntasks-per-node=1 --cpus-per-task=4 --output={log}
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
address=$(srun --overlap -N1 -n1 -w "${{nodes[0]}}" hostname --ip-address | awk '{{print $1}}')
ray="{python} -m ray.scripts.scripts start --block --disable-usage-stats --object-store-memory=200000000"
srun --overlap -N1 -n1 -c4 -w "${{nodes[0]}}" $ray --head --node-ip-address=$address --port=37173 --num-cpus=4 &
sleep 30
for node in "${{nodes[@]:1}}"; do
  srun --overlap -N1 -n1 -c4 -w "$node" $ray --address="$address:37173" --num-cpus=4 &
  sleep 15
done
sleep 30
echo "Ray Cluster Ready"
wait
"""


def ours(kosen: Kosen, nodes: int) -> dict[str, float]:
    """Seconds from the batch job's start, by phase, and from the user's command to its return."""
    started = time.monotonic()
    kosen.up(nodes=nodes)
    command = time.monotonic() - started
    events = {event["event"]: event["seconds"] for event in kosen.events()}
    began = time.monotonic()
    kosen.cluster("down", "--name", "c")
    kosen.assert_nothing_left()
    gone = time.monotonic() - began
    return {
        "head listens": events["head_listening"],
        "nodes whole": events["nodes_ready"],
        "ready": events["ready"],
        "command": command,
        "down to nothing": gone,
    }


def seeds(kosen: Kosen, nodes: int) -> float:
    """Seconds from sbatch until the seeds' script says that its cluster is ready."""
    log, script = kosen.home / "seeds.log", kosen.home / "seeds.sh"
    script.write_text(SEEDS.format(log=log, python=sys.executable))
    started = time.monotonic()
    job = kosen.slurm_command("sbatch", "--parsable", "--nodes", str(nodes), "--mem=4000M", str(script)).strip()
    while not (log.exists() and "Ray Cluster Ready" in log.read_text()):
        if time.monotonic() > started + 300:
            raise TimeoutError(f"the seeds' way was not ready after 300 s:\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.1)
    seconds = time.monotonic() - started
    kosen.slurm_command("scancel", job)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--out", type=Path, help="a JSON file for the raw figures")
    args = parser.parse_args()
    raw: dict[str, Any] = {}
    place = {"directory": Path("/var/lib/kosen-slurm-bench"), "net": "10.89.0", "prefix": "kb"}
    for nodes in args.nodes:
        with MiniSlurm(nodes=nodes, share=(ROOT,), **place) as slurm:  # type: ignore[arg-type]
            home = Path(tempfile.mkdtemp(dir=slurm.directory / "home"))
            kosen = Kosen(slurm, home)
            raw[f"ours, {nodes} nodes"] = [ours(kosen, nodes) for _ in range(args.runs)]
            if nodes == min(args.nodes):
                raw[f"seeds, {nodes} nodes"] = seeds(kosen, nodes)
            shutil.rmtree(home, ignore_errors=True)
    if args.out:
        args.out.write_text(json.dumps(raw, indent=2))
    for name, runs in raw.items():
        if isinstance(runs, float):
            print(f"{name}: ready {runs:.1f} s")
            continue
        for phase in runs[0]:
            values = [run[phase] for run in runs]
            print(
                f"{name}: {phase:<16} median {statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"
            )


if __name__ == "__main__":
    main()
