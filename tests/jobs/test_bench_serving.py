"""The benchmark's serving: the engine alone, `vllm serve` and ours, with a tiny model on CPU."""

from pathlib import Path
from typing import Any

import pytest

from jobs.benchmarking.parts import serving
from jobs.benchmarking.parts.models import PRESETS, find_model, make_model
from jobs.benchmarking.parts.offline import Figures, flags
from jobs.benchmarking.parts.rows import prompts
from jobs.benchmarking.parts.serving import read_records, replica_counts
from jobs.benchmarking.results import Serve, Way
from jobs.benchmarking.spec import BenchSpec, ServeSpec
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.training.data.tokens import TokenCounter


def test_engine_options_become_flags_of_vllm_serve() -> None:
    options = {"max_num_seqs": 8, "enable_prefix_caching": False, "enforce_eager": True, "hf_overrides": {"a": 1}}
    wanted = ["--max-num-seqs", "8", "--no-enable-prefix-caching", "--enforce-eager", "--hf-overrides", '{"a": 1}']
    assert flags(options) == wanted


def test_a_folder_without_weights_gets_random_ones(tmp_path: Path) -> None:
    def options(model: str) -> dict[str, Any]:
        return serving.serving_spec(find_model(model, tmp_path), serving.LOADS["cpu"]).engine_kwargs

    make_model(tmp_path, PRESETS["tiny"])
    assert options(str(tmp_path))["load_format"] == "dummy"
    (tmp_path / "model.safetensors").touch()
    assert "load_format" not in options(str(tmp_path)) | options("some/model-on-the-hub")


def test_prompts_differ_and_have_the_length_that_was_asked_for(tmp_path: Path) -> None:
    make_model(tmp_path, PRESETS["tiny"])
    asked = prompts(12, 32, str(tmp_path))
    assert TokenCounter(str(tmp_path), prompt=True).count(asked) == [32] * 12
    assert len({str(messages) for messages in asked}) == 12


@pytest.mark.parametrize(
    ("given", "gpus", "counts"),
    [("auto", 8, [1, 2, 4, 8]), ("auto", 6, [1, 2, 4]), ("auto", 0, [1]), ([2, 6], 6, [2, 6])],
)
def test_replicas_are_doubled_up_to_all_gpus_or_as_the_spec_says(given: Any, gpus: int, counts: list[int]) -> None:
    assert replica_counts(ServeSpec(replicas=given), gpus) == counts


def test_more_replicas_than_gpus_are_refused() -> None:
    with pytest.raises(SpecError, match=r"serve.replicas=\[1, 4\].* room for 2"):
        replica_counts(ServeSpec(replicas=[1, 4]), 2)


def test_time_runs_from_the_first_request_to_the_last_answer() -> None:
    records = [
        {"started_at": "2026-01-01T00:00:01.000+00:00", "seconds": 2.0, "status": "ok"},
        {"started_at": "2026-01-01T00:00:00.500+00:00", "seconds": 1.0, "status": "truncated"},
        {"started_at": "2026-01-01T00:00:02.000+00:00", "seconds": 3.0, "status": "failed", "usage": None},
    ]
    for record in records[:2]:
        record["usage"] = {"completion_tokens": 16}
    assert read_records(records, cpu=0.25) == (4.5, 32, 1, 0.25)


def test_a_way_that_fails_holds_up_no_other_and_is_all_that_is_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []
    broken = {"vllm_serve"}

    def way(name: Way) -> serving._Way:
        def run() -> Figures:
            asked.append(name)
            if name in broken:
                raise EndpointDown("it did not start. Its log:\nan old line\nOSError: no such port")
            return Figures(2.0, 100 * len(asked), 0, None)

        return serving._Way(name, None, 1, run)

    load = serving.Workload(requests=4, prompt_tokens=8, output_tokens=25, max_num_seqs=4)
    ways = [way("engine"), way("vllm_serve"), way("kosen")]
    with pytest.raises(EndpointDown) as error:
        serving._measure_ways(ways, "m", load, tmp_path)
    assert "1 of 3 ways" in str(error.value) and "vllm_serve, 1 replica(s): OSError: no such port" in str(error.value)
    before = Serve.read(tmp_path)
    assert before and [found.way for found in before.ways] == ["engine", "kosen"]

    broken.clear()
    serving._measure_ways(ways, "m", load, tmp_path)
    assert asked == ["engine", "vllm_serve", "kosen", "vllm_serve"]
    after = Serve.read(tmp_path)
    assert after and [found.way for found in after.ways] == ["engine", "vllm_serve", "kosen"]
    assert [after.ways[0], after.ways[2]] == before.ways

    (tmp_path / Serve.file).write_text("{")
    serving._measure_ways(ways, "m", load, tmp_path)
    assert asked[4:] == ["engine", "vllm_serve", "kosen"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_ways_answer_the_same_requests(connected: Cluster, tmp_path: Path) -> None:
    serving.measure(BenchSpec.model_validate({"serve": {"requests": 6}}), tmp_path, connected)
    result = Serve.read(tmp_path)
    assert result
    assert [way.way for way in result.ways] == ["engine", "vllm_serve", "kosen"]
    for way in result.ways:
        assert (way.requests, way.failed, way.output_tokens) == (6, 0, 6 * 16)
        assert 0 < way.seconds < 60
    engine, *served = result.ways
    assert engine.client_cpu is None and engine.in_flight is None
    assert all(way.client_cpu for way in served)
