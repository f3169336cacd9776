"""The collectives of `jobs.bench` against NCCL alone, in turns, on all GPUs of this host: a line of figures a size.

python benchmarks/collectives.py                       # 8 B to 8 GB, 3 rounds
python benchmarks/collectives.py --smallest 8388608    # where the loop's launches, a call for each GPU, do not count

Needs nvcc. NCCL alone is nccl_loop/loop.cu, one process for all GPUs; ours is a process a GPU on Ray Train's workers.
Figures are medians over the rounds, the ratio is ours to NCCL alone's bus bandwidth. All rows of all rounds are kept in
--out. NVLink SHARP is off in both, unless NCCL_NVLS_ENABLE is set.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from nccl_loop.build import build  # noqa: E402

from cluster.probes.sweep import OPERATIONS, bus_factor  # noqa: E402
from jobs.benchmarking.parts.collectives import measure  # noqa: E402
from jobs.benchmarking.results import Collectives  # noqa: E402
from jobs.benchmarking.spec import BenchSpec, CollectivesSpec  # noqa: E402
from orchestrator.ray_cluster.connect import connect  # noqa: E402

LOOP_SECONDS = 600.0

Row = dict[str, Any]


def main() -> None:
    args = _arguments()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    args.out.mkdir(parents=True, exist_ok=True)
    program = build(args.out)
    spec = BenchSpec(device="cuda", collectives=CollectivesSpec(smallest=args.smallest, largest=args.largest))
    rows: list[Row] = []
    with connect() as cluster, (args.out / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(args.rounds):
            found = [{"way": "nccl", **row} for row in _loop(program, args.smallest, args.largest)]
            measure(spec, args.out, cluster)
            found += [{"way": "kosen", **row} for row in _ours(args.out)]
            rows += found
            file.writelines(json.dumps({"round": number, **row}) + "\n" for row in found)
            file.flush()
    _print(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", type=int, default=8, help="bytes")
    parser.add_argument("--largest", type=int, default=2**33, help="bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("/tmp/kosen-collectives"), help="the program and all rows")
    return parser.parse_args()


def _loop(program: Path, smallest: int, largest: int) -> list[Row]:
    command = [str(program), str(smallest), str(largest)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LOOP_SECONDS, check=True)
    # NCCL_DEBUG=VERSION prints between the rows.
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _ours(folder: Path) -> Iterator[Row]:
    found = Collectives.read(folder)
    assert found
    for transfer in found.transfers:
        yield transfer.model_dump(include={"operation", "size", "ranks", "seconds", "correct"})


def _print(rows: list[Row]) -> None:
    seconds: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        seconds[row["operation"], row["size"]][row["way"]].append(row["seconds"])
    ranks = rows[0]["ranks"]
    print(f"{'operation':<15} {'bytes':>11} {'NCCL µs':>12} {'ours µs':>12} {'NCCL GB/s':>10} {'ours GB/s':>10} ratio")
    ratios: dict[str, list[float]] = defaultdict(list)
    for operation in OPERATIONS:
        for (name, size), ways in sorted(seconds.items()):
            if name != operation or len(ways) < 2:
                continue
            nccl, ours = (statistics.median(ways[way]) for way in ("nccl", "kosen"))
            factor = size * bus_factor(operation, ranks) / 1e9
            times, rates = f"{nccl * 1e6:12.2f} {ours * 1e6:12.2f}", f"{factor / nccl:10.2f} {factor / ours:10.2f}"
            print(f"{name:<15} {size:>11} {times} {rates} {nccl / ours:.3f}")
            ratios[operation].append(nccl / ours)
    for name, values in ratios.items():
        lowest, middle = min(values), statistics.median(values)
        print(f"{name}: lowest ratio {lowest:.3f}, median {middle:.3f}")
    wrong = [row for row in rows if row.get("correct") is False]
    print(f"{len(wrong)} of our rows had a wrong result")


if __name__ == "__main__":
    main()
