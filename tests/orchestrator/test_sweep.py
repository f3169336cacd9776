"""Collectives between real Gloo ranks: right results are seen, wrong ones too, and figures are nccl-tests'."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cluster.files import REPOSITORY
from cluster.probes import sweep
from cluster.probes.sweep import OPERATIONS, Operation, Timing, bus_factor, message_sizes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sweep_ranks", str(tmp_path_factory.mktemp("ranks"))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_operation_is_right_between_three_ranks(found: dict[str, Any]) -> None:
    assert {row["operation"] for row in found["plain"]} == set(OPERATIONS)
    assert all(row["correct"] and row["ranks"] == 3 for row in found["plain"])
    assert [row["size"] for row in found["plain"] if row["operation"] == "all_reduce"] == [8, 64, 512, 4096]
    # 64 B in shards of whole 16 B are 48, 512 are 480, 4096 are 4080
    assert [row["size"] for row in found["plain"] if row["operation"] == "all_to_all"] == [48, 480, 4080]


def test_one_wrong_element_of_one_rank_is_seen(found: dict[str, Any]) -> None:
    assert len(found["altered"]) == len(found["plain"])
    assert not any(row["correct"] for row in found["altered"])


def test_an_operation_that_sends_nothing_is_seen(found: dict[str, Any]) -> None:
    assert not any(row["correct"] for row in found["silent"])


def test_a_size_that_does_not_fit_is_left_out(found: dict[str, Any]) -> None:
    assert found["fitting"] == [8]


def test_a_broken_node_is_what_its_pairs_have_in_common(found: dict[str, Any]) -> None:
    correct = {tuple(pair["nodes"]): pair["large"]["correct"] for pair in found["pairs"]}
    assert correct == {("a", "b"): False, ("b", "c"): False, ("a", "c"): True}
    assert all(pair["small"]["size"] == 8 and pair["large"]["size"] == 2**14 for pair in found["pairs"])
    assert all(pair["small"]["ranks"] == pair["large"]["ranks"] == 2 for pair in found["pairs"])


@pytest.mark.parametrize(
    ("operation", "four", "eight"),
    [
        ("all_reduce", 1.5, 1.75),  # 2 * 3/4, 2 * 7/8
        ("all_gather", 0.75, 0.875),
        ("reduce_scatter", 0.75, 0.875),
        ("all_to_all", 0.75, 0.875),
        ("broadcast", 1, 1),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(operation: Operation, four: float, eight: float) -> None:
    assert (bus_factor(operation, 4), bus_factor(operation, 8)) == (four, eight)
    timing = Timing(operation, size=10**9, ranks=4, seconds=0.01, correct=True)
    assert timing.algorithm_bandwidth == pytest.approx(100e9)
    assert timing.bus_bandwidth == pytest.approx(four * 100e9)
    assert Timing(operation, 8, 1, 0.01, correct=True).bus_bandwidth is None


def test_what_halts_a_rank_for_a_moment_does_not_show_in_short_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.02, 0.3, 0.02, 0.02])
    seen = []

    def timed(run: object, count: int, **options: Any) -> float:
        seen.append((run, count, options["cuda"], options["limit"]))
        return next(seconds)

    monkeypatch.setattr(sweep, "captured", lambda run, count: (run, count))
    monkeypatch.setattr(sweep, "batch_seconds", timed)
    assert sweep._seconds_of_short(print, 20) == 0.02
    assert seen == [((print, 20), 1, True, sweep.SHORT_LIMIT)] * sweep.SHORT_BATCHES


def test_sizes_double_and_shards_are_whole_16_bytes() -> None:
    assert message_sizes("broadcast", 8, 100, 3) == [8, 16, 32, 64]
    assert message_sizes("broadcast", 1, 8, 3) == [4, 8]  # less than a float is nothing
    assert message_sizes("all_gather", 8, 1024, 3) == [48, 96, 240, 480, 1008]
    assert message_sizes("all_to_all", 8, 2**33, 8)[0] == 128 and message_sizes("all_to_all", 8, 2**33, 8)[-1] == 2**33
    assert message_sizes("all_reduce", 16, 8, 2) == []
