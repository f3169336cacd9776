"""Parts of the benchmark on the local cluster, with tiny sizes: what they write, and what they say when they fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from jobs.benchmarking.parts.collectives import write_seed_format
from jobs.benchmarking.parts.nccl import environment
from jobs.benchmarking.parts.nccl_tests import parse
from jobs.benchmarking.results import Collectives, Compute, Transfer
from jobs.benchmarking.spec import BenchSpec

MEASURE = """
import sys
from pathlib import Path
from jobs.benchmarking.parts import collectives
from jobs.benchmarking.parts import compute
from jobs.benchmarking.spec import BenchSpec, CollectivesSpec
from orchestrator.ray_cluster.connect import connect
from orchestrator.errors import run_command

def main():
    spec = BenchSpec(device="cpu", collectives=CollectivesSpec(smallest=64, largest=2**20))
    with connect() as cluster:
        for part in sys.argv[2:]:
            globals()[part].measure(spec, Path(sys.argv[1]), cluster)
    return 0

run_command(main)
"""
SIZES = [2**power for power in range(6, 21)]
# As nccl-tests print it (its util.cu): figures out of place, then in place; the numbers are made up.
TABLE = """
# nccl-tests version 2.17.6
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
           0             0     float     sum      -1     0.11    0.00    0.00       0     0.10    0.00    0.00       0
     1048576        262144     float     sum      -1   245.30    4.27    7.48       0   200.00    5.24    9.18       0
     2097152        524288     float     sum      -1   345.30    6.07   10.63       0   400.00    5.24    9.18       3
# Avg bus bandwidth    : 9.1
"""


def run_parts(folder: Path, *parts: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", MEASURE, str(folder), *parts]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def measured(cluster: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    done = run_parts(folder, "compute", "collectives")
    assert done.returncode == 0, done.stderr
    assert "compute: matrix products and memory, all nodes at once (1)" in done.stderr
    assert "collectives: 5 operations of 64 to 1048576 bytes between 2 ranks" in done.stderr
    files = ["collectives.json", "compute.json", "pytorch_test_results.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    return folder


def test_a_node_without_gpus_has_a_row_for_its_cpu(measured: Path) -> None:
    found = Compute.read(measured)
    assert found
    (cpu,) = found.devices
    assert (cpu.index, cpu.dtype, cpu.host_to_device, cpu.device_to_host) == (None, "float32", None, None)
    assert 1e8 < cpu.matmul < 1e14 and 1e8 < cpu.memory < 1e13  # any CPU under any load, in FLOP/s and bytes/s


def test_collectives_between_workers_of_ray_train_are_right(measured: Path) -> None:
    found = Collectives.read(measured)
    assert found and found.backend == "gloo" and (found.pairs, found.peer) == ([], [])
    operations = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
    assert [(row.operation, row.size) for row in found.transfers] == [(o, size) for o in operations for size in SIZES]
    assert all(row.correct and row.ranks == 2 for row in found.transfers)
    largest = found.transfers[len(SIZES) - 1]
    assert largest.bus_bandwidth == pytest.approx(largest.size / largest.seconds)  # 2 * (2 - 1) / 2 = 1
    (row,) = json.loads((measured / "pytorch_test_results.json").read_text())  # of 1, 10, 100 MB and 1 GB only 1 MB
    assert row["size_gb"] == pytest.approx(0.001048576)
    assert row["time_ms"] == pytest.approx(largest.seconds * 1e3)
    assert row["bandwidth_gbps"] == pytest.approx(largest.algorithm_bandwidth * 8 / 1e9)


@pytest.mark.usefixtures("cluster")
def test_a_rank_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "collectives.json").mkdir()  # rank 0 cannot write there
    done = run_parts(tmp_path, "collectives")
    assert done.returncode == 4 and "Traceback" not in done.stderr
    assert "error: the collectives between 2 ranks ended early: rank 0 failed:" in done.stderr
    assert not (tmp_path / ".ray").exists()


def test_the_seeds_format_has_the_sizes_nearest_to_its_own(tmp_path: Path) -> None:
    sizes = [2**20, 2**23, 2**24, 2**27]  # 2**23 is nearest to 10 MB, 2**27 to 100 MB, and nothing to 1 GB
    write_seed_format([_reduce(size) for size in sizes], tmp_path)
    rows = json.loads((tmp_path / "pytorch_test_results.json").read_text())
    assert [row["size_gb"] for row in rows] == [2**20 / 1e9, 2**23 / 1e9, 2**27 / 1e9]
    assert {(row["time_ms"], row["bandwidth_gbps"]) for row in rows} == {(2.0, 16.0)}  # 2 GB/s are 16 Gbit/s


def _reduce(size: int) -> Transfer:
    return Transfer(
        operation="all_reduce",
        size=size,
        ranks=8,
        seconds=0.002,
        algorithm_bandwidth=1e9,
        bus_bandwidth=2e9,
        correct=True,
    )


def test_a_table_of_nccl_tests_is_read() -> None:
    first, second = parse("all_reduce", 8, TABLE)
    assert (first.size, first.ranks, first.correct, second.correct) == (2**20, 8, True, False)
    assert first.seconds == pytest.approx(200e-6)  # in place
    assert first.bus_bandwidth == pytest.approx(2**20 / 200e-6 * 1.75)  # printed as 9.18 GB/s
    outside, _ = parse("all_to_all", 8, TABLE.replace("       3\n", "     N/A\n"))
    assert outside.seconds == pytest.approx(245.3e-6) and outside.correct
    assert parse("all_reduce", 8, "") == []


def test_a_profile_sets_nccl_and_nvlink_sharp_is_off_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_NVLS_ENABLE", "NCCL_GRAPH_MIXING_SUPPORT"):
        monkeypatch.delenv(name, raising=False)
    assert environment(BenchSpec()) == {"NCCL_NVLS_ENABLE": "0", "NCCL_GRAPH_MIXING_SUPPORT": "0"}
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    monkeypatch.setenv("NCCL_GRAPH_MIXING_SUPPORT", "1")
    settings = environment(BenchSpec(nccl="spectrum-x"))
    assert (settings["NCCL_NVLS_ENABLE"], settings["NCCL_IB_GID_INDEX"]) == ("1", "3")
    assert settings["NCCL_GRAPH_MIXING_SUPPORT"] == "1"
