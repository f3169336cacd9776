"""The benchmark's training: what it starts, what it counts, and a real measurement at CPU scale."""

from pathlib import Path

import pytest

from jobs.benchmarking.parts import training
from jobs.benchmarking.parts.flops import flops_per_token, peak_flops
from jobs.benchmarking.parts.models import PRESETS, make_model
from jobs.benchmarking.parts.rows import write_rows
from jobs.benchmarking.parts.training import OutOfMemory, failure_of, largest_that_fits, worker_counts
from jobs.benchmarking.results import Train
from jobs.benchmarking.spec import BenchSpec
from orchestrator.data.source import read_rows
from orchestrator.errors import SpecError, TrainingFailed
from orchestrator.planning.shape import read_shape
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.training.config.placement import NodeResources
from orchestrator.training.data.tokens import TokenCounter
from orchestrator.training.folder import Failure, TrainingFolder


@pytest.mark.parametrize(
    ("gpus", "counts"),
    [
        ([1], [1]),
        ([6], [1, 2, 4, 6]),
        ([8, 8], [1, 2, 4, 8, 16]),
        ([8, 8, 8], [1, 2, 4, 8, 16, 24]),
        ([4, 8, 0], [1, 2, 4, 8]),  # two nodes have four GPUs each, which one node has as well
        ([0], []),
    ],
)
def test_workers_double_on_a_node_and_then_by_whole_nodes(gpus: list[int], counts: list[int]) -> None:
    assert worker_counts([NodeResources(f"n{index}", 64, count) for index, count in enumerate(gpus)], "cuda") == counts


def test_without_gpus_two_workers_a_node_are_enough() -> None:
    assert worker_counts([NodeResources("a", 64, 0), NodeResources("b", 64, 0)], "cpu") == [1, 2, 4]
    assert worker_counts([NodeResources("a", 1, 0)], "cpu") == [1]


@pytest.mark.parametrize("fitted", [0, 3])
def test_the_largest_batch_is_found_with_few_tries(fitted: int) -> None:
    for limit in range(fitted, 40):
        tries: list[int] = []

        def fits(rows: int, limit: int = limit, tries: list[int] = tries) -> bool:
            tries.append(rows)
            return rows <= limit

        found = largest_that_fits(fits, fitted, most=32)
        assert found == min(limit, 32)
        assert len(tries) == len(set(tries)) <= 11
        assert fitted not in tries


def test_parameters_and_flops_are_those_of_the_published_models() -> None:
    shapes = {name: read_shape(preset.config(), name) for name, preset in PRESETS.items()}
    assert shapes["7b"].parameters.total == 6_738_415_616  # the sizes of the published checkpoints
    assert shapes["8b"].parameters.total == 8_030_261_248
    assert shapes["13b"].parameters.total == 13_015_864_320
    assert shapes["70b"].parameters.total == 68_976_648_192
    assert shapes["32b"].parameters.total == 32_762_123_264 - 64 * 2 * 128  # no norms of queries and keys
    # 6 × (6,738,415,616 - 32,000 × 4,096) + 12 × 32 layers × 4,096 × 2,048 tokens
    assert flops_per_token(shapes["7b"], 2048, lora=False) == 39_644_061_696 + 3_221_225_472
    assert flops_per_token(shapes["7b"], 2048, lora=True) == 26_429_374_464 + 3_221_225_472
    # 6 × (32,762,106,880 - 151,936 × 5,120) + 12 × 64 layers × 64 heads × 128 × 2,048 tokens: the heads are wider than
    # the hidden vector
    assert flops_per_token(shapes["32b"], 2048, lora=False) == 191_905_167_360 + 12_884_901_888


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", None),  # slower than its namesakes
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_a_gpus_peak_goes_by_the_name_that_its_driver_gives(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_made_rows_have_the_length_that_was_asked_for(tmp_path: Path) -> None:
    make_model(tmp_path / "model", PRESETS["tiny"])
    write_rows(tmp_path / "rows.jsonl", 20, 64, str(tmp_path / "model"))
    rows = [row["messages"] for row in read_rows(str(tmp_path / "rows.jsonl"), columns=None)]
    assert TokenCounter(str(tmp_path / "model"), prompt=False).count(rows) == [64] * 20


def test_a_gpu_without_room_is_told_from_other_failures(tmp_path: Path) -> None:
    run, log = TrainingFolder(tmp_path), tmp_path / "job.log"
    log.write_text("attempt 1\nerror: gave up after 1 failures in a row\n")
    assert isinstance(failed := failure_of(4, run, log), TrainingFailed)
    assert str(failed) == "gave up after 1 failures in a row"
    run.report_failure(Failure("other", "rank 0 failed: torch.OutOfMemoryError: CUDA out of memory. Tried 2.00 GiB"))
    assert isinstance(failure_of(4, run, log), OutOfMemory)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_trains_on_one_worker_and_on_two(connected: Cluster, tmp_path: Path) -> None:
    spec = BenchSpec.model_validate({"train": {"workers": [1, 2], "steps": 1, "rows_per_worker": 4}})
    training.measure(spec, tmp_path, connected)
    result = Train.read(tmp_path)
    assert result
    # embedding and head 2 × 512 × 64, two layers of 4 × 64² + 3 × 64 × 128 + 2 × 64, the last norm 64
    assert (result.model, result.parameters, result.length) == ("tiny", 147_776, 64)
    assert [(run.workers, run.nodes, run.rows_per_worker, run.steps) for run in result.runs] == [
        (1, 1, 4, 1),
        (2, 1, 4, 1),
    ]
    for run in result.runs:
        assert run.seconds * run.tokens_per_second == pytest.approx(run.workers * 4 * 64)
        assert run.mfu is None and run.memory is None  # of a CPU neither is known
    assert result.largest_micro_batch is None
    steps = (tmp_path / training.LOG).read_text().splitlines()
    assert [line.split()[2:4] for line in steps] == [[f"workers={n}", f"step={k}"] for n in (1, 2) for k in (1, 2, 3)]
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("checkpoints"))

    result.model_copy(update={"runs": result.runs[:1]}).write(tmp_path)  # as if it had ended there
    training.measure(spec, tmp_path, connected)
    again = Train.read(tmp_path)
    assert again and again.runs[0] == result.runs[0] and again.runs[1].workers == 2
    more = (tmp_path / training.LOG).read_text().splitlines()[len(steps) :]
    assert [line.split()[2:4] for line in more] == [["workers=2", f"step={k}"] for k in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_trainer_refuses_is_said_in_its_words(connected: Cluster, tmp_path: Path) -> None:
    spec = BenchSpec.model_validate({"train": {"workers": [1], "data": str(tmp_path / "nothing.jsonl")}})
    with pytest.raises(SpecError, match=r"there is no data set .*nothing\.jsonl"):
        training.measure(spec, tmp_path, connected)
    assert Train.read(tmp_path) is None
