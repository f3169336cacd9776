"""`parallelism: auto`: what goes with it, and the sizes that it becomes on a cluster."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.exam import provenance
from jobs.exam.requests import Requests
from jobs.exam.run import Run, find_endpoint, find_judge, window
from jobs.exam.spec import ExamSpec
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import SpecError
from orchestrator.events import Events
from orchestrator.planning.on_cluster import gpus_of, hardware_of, settle_both, settle_layout
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.serving import deploy
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import load_spec, to_yaml
from tests.support.planning_configs import QWEN_8B, QWEN_32B

AUTO = ServingSpec(parallelism="auto")
CONF = Path(__file__).parents[3] / "conf/hle.yaml"


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_32B), encoding="utf-8")
    return str(tmp_path)


def cluster(gpus: int) -> Cluster:
    return Cluster("mine", Path("runs"), "10.0.0.1", 8000, gpus, None)


@pytest.fixture
def two_hosts(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Ray's view of two hosts with eight H100s, and of one that is gone."""
    resources = {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
    nodes = [{"Alive": alive, "Resources": resources} for alive in (True, True, False)]
    nodes.append({"Alive": True, "Resources": {"CPU": 4.0}})
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    return cluster(16)


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size", "replicas", "max_replicas"])
def test_sizes_beside_auto_are_refused(size: str) -> None:
    with pytest.raises(SpecError, match=f"parallelism=auto decides {size} too"):
        load_spec(ExamSpec, CONF, ["serving.parallelism=auto", f"serving.{size}=2"])


def test_the_shipped_spec_takes_auto_and_its_copy_can_be_read_again(tmp_path: Path) -> None:
    spec = load_spec(ExamSpec, CONF, ["serving.parallelism=auto"])
    (tmp_path / "spec.yaml").write_text(to_yaml(spec), encoding="utf-8")
    assert load_spec(ExamSpec, tmp_path / "spec.yaml", []).serving.parallelism == "auto"


def test_without_gpus_auto_means_one(model: str) -> None:
    assert settle_layout(model, AUTO, cluster(0), progress=print) == ServingSpec()


def test_given_sizes_stay(model: str) -> None:
    given = ServingSpec(tensor_parallel_size=8)
    assert settle_layout(model, given, cluster(16), progress=print) is given


def test_auto_becomes_sizes_and_says_why(model: str, two_hosts: Cluster) -> None:
    said: list[str] = []
    settled = settle_layout(model, AUTO, two_hosts, progress=said.append)
    assert (settled.tensor_parallel_size, settled.pipeline_parallel_size, settled.replicas) == (4, 1, 4)
    assert settled.parallelism is None
    assert settled.max_num_seqs
    assert deploy.capacity(settled, 16) == int(1.25 * settled.max_num_seqs * 4)
    assert "4 replica(s) of tensor parallel 4" in said[-1]
    assert len(said) <= 3


def test_steps_are_as_long_as_batch_work_wants_unless_the_spec_says_otherwise(model: str, two_hosts: Cluster) -> None:
    cases: list[tuple[dict[str, Any], int | None]] = [
        ({}, 16384),
        ({"max_num_batched_tokens": 2048}, 2048),
        ({"enable_chunked_prefill": False}, None),  # a step holds the longest prompt, which vLLM knows
    ]
    for given, wanted in cases:
        settled = settle_layout(model, AUTO.model_copy(update=given), two_hosts, progress=print)
        assert settled.max_num_batched_tokens == wanted


def test_the_same_sizes_given_by_hand_share_the_deployment(model: str, two_hosts: Cluster) -> None:
    settled = settle_layout(model, AUTO, two_hosts, progress=print)
    seats = settled.max_num_seqs
    by_hand = ServingSpec(tensor_parallel_size=4, replicas=4, max_num_seqs=seats, max_num_batched_tokens=16384)
    assert deploy.app_name(model, settled, 16) == deploy.app_name(model, by_hand, 16)


def test_the_other_deployment_keeps_its_gpus(model: str, two_hosts: Cluster) -> None:
    judge = ServingSpec(tensor_parallel_size=2, replicas=2)
    settled = settle_layout(model, AUTO, two_hosts, progress=print, beside=judge)
    assert gpus_of(settled) <= 12


def test_model_and_judge_share_the_gpus_so_that_both_do_as_many_answers(
    model: str, two_hosts: Cluster, tmp_path: Path
) -> None:
    small = tmp_path / "judge"
    small.mkdir()
    (small / "config.json").write_text(json.dumps(QWEN_8B), encoding="utf-8")
    said: list[str] = []
    judged, judging = settle_both(model, AUTO, str(small), AUTO, two_hosts, progress=said.append, output_tokens=4096)
    # A 32B model with ten times the tokens to write needs nearly all, and the judge keeps its smallest replica.
    assert gpus_of(judged) >= 12
    assert 1 <= gpus_of(judging) <= 16 - gpus_of(judged)
    assert sum(line.startswith("parallelism auto: ") for line in said) == 2
    much, more = settle_both(model, AUTO, model, AUTO, two_hosts, progress=said.append, output_tokens=256)
    assert gpus_of(more) > gpus_of(judging)
    assert gpus_of(much) + gpus_of(more) <= 16


def test_two_that_do_not_fit_side_by_side_are_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"GPU": 1.0, "accelerator_type:H200": 1.0}}])
    with pytest.raises(SpecError, match=r"do not fit side by side on 1 x h200.*judge_base_url"):
        settle_both(model, AUTO, model, AUTO, cluster(1), progress=print)


def test_a_model_that_judges_itself_is_one_deployment_on_all_gpus(
    model: str, two_hosts: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[ServingSpec] = []
    ready = Endpoint("http://10.0.0.1:8000/app/v1", model, serve_app="app")

    def start(_: str, spec: ServingSpec, *__: Any, **___: Any) -> Endpoint:
        deployed.append(spec)
        return ready

    monkeypatch.setattr(deploy, "deploy", start)
    monkeypatch.setattr("jobs.exam.run.preflight", lambda *_: SimpleNamespace(endpoint=ready))
    monkeypatch.setattr("jobs.exam.run.call", lambda *_: 1)
    spec = ExamSpec(model=model, judge=model, judge_provider="vllm", serving=AUTO, judge_serving=AUTO)
    opened = Run(spec, [], Requests(spec), two_hosts, tmp_path, SimpleNamespace(count_to_judge=None), Events(tmp_path))
    served = provenance.deployed(model, AUTO, 16, print)
    opened.session = provenance.begin_session(tmp_path, spec, [], served=served, judge=served, gpu="H200")
    assert find_judge(opened) and find_endpoint(opened) == ready
    assert deployed[0] == deployed[1] and gpus_of(deployed[0]) == 16


def test_limits_of_the_spec_hold(model: str, two_hosts: Cluster) -> None:
    limited = ServingSpec(parallelism="auto", max_num_seqs=32, max_model_len=4096)
    settled = settle_layout(model, limited, two_hosts, progress=print)
    assert settled.max_num_seqs == 32
    assert settled.tensor_parallel_size * settled.replicas == 16


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [([], "Ray names none"), (["H100", "A100"], "A100, H100"), (["RTX-PRO-6000"], "'RTX-PRO-6000' is not known")],
)
def test_gpus_that_cannot_be_planned_with_are_named(kinds: list[str], expected: str) -> None:
    nodes: list[dict[str, Any]] = [{"GPU": 8.0} | {f"accelerator_type:{kind}": 1.0 for kind in kinds}]
    with pytest.raises(SpecError, match=expected):
        hardware_of(nodes, taken=0)


def test_an_a100_is_taken_for_the_size_that_ray_names() -> None:
    plain, exact = {"GPU": 4.0, "accelerator_type:A100": 1.0}, {"accelerator_type:A100-80G": 1.0}
    assert hardware_of([plain], taken=0).gpu.name == "a100-40gb"
    assert hardware_of([plain | exact], taken=0).gpu.name == "a100-80gb"


def test_taken_gpus_come_off_the_smallest_host() -> None:
    nodes = [{"GPU": count, "accelerator_type:H100": 1.0} for count in (8.0, 4.0)]
    assert hardware_of(nodes, taken=5).hosts == (7,)


def test_the_dry_run_says_that_the_cluster_decides() -> None:
    assert "python -m orchestrator.plan --model some/model" in deploy.describe("some/model", AUTO, None)
    assert deploy.describe("some/model", AUTO, 0).endswith("1 replica(s) of CPU each")


def test_the_sizes_are_recorded_and_decide_what_is_in_flight(
    model: str, two_hosts: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Endpoint("http://10.0.0.1:8000/app/v1", model, serve_app="app")
    monkeypatch.setattr(deploy, "deploy", lambda *_, **__: ready)
    spec = ExamSpec(model=model, max_completion_tokens=1024, serving=AUTO)
    opened = Run(spec, [], Requests(spec), two_hosts, tmp_path, None, Events(tmp_path))
    assert find_endpoint(opened) == ready
    event = json.loads((tmp_path / "events.jsonl").read_text(encoding="utf-8"))
    assert event["event"] == "endpoint_ready"
    assert event["tensor_parallel_size"] * event["replicas"] == 16
    capacity = deploy.capacity(opened.deployed[ready], 16)
    assert window(opened, ready, "vllm", "auto") == (2 * deploy.FIRST, capacity) and capacity > 1000
