"""Serving: what is started for a spec, and a real vLLM on CPU behind a real Ray Serve that requires its key."""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster.files import REPOSITORY
from orchestrator.asking.client import ChatClient
from orchestrator.concurrency.window import EngineWindow
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.ray_cluster.connect import Cluster, connect
from orchestrator.serving import deploy, lease
from orchestrator.serving.logs import meaningful_lines
from orchestrator.serving.options import engine_kwargs
from orchestrator.serving.spec import ServingSpec
from orchestrator.serving.wait import Vanished, _call, app_status, app_statuses, wait_first_token
from orchestrator.steering import controller
from orchestrator.steering.controller import steered
from orchestrator.steering.engine_loads import live_replicas, read_pages, readings
from orchestrator.steering.stalls import end_engine
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_model import make_tiny_model

SITE_MODULES = "/of/a/site"  # what its `module load` may put on the path
SPEC = ServingSpec(max_num_seqs=8, startup_timeout=200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this test's own, started because there is none, gone afterwards because nobody else uses it."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("home")
    patch.setenv("KOSEN_HOME", str(home))
    patch.setenv("RAY_AUTH_MODE", "token")  # restored afterwards
    patch.setenv("RAY_AUTH_TOKEN_PATH", "")
    patch.setenv("PYTHONPATH", SITE_MODULES)
    patch.delenv("RAY_ADDRESS", raising=False)
    with connect() as cluster:
        yield cluster
    patch.undo()
    assert not (home / "clusters" / "local" / "state.json").exists()
    assert not Path(str(cluster.state and cluster.state.temp_dir)).exists()


@pytest.fixture(scope="module")
def endpoint(model: str, cluster: Cluster) -> Endpoint:
    return deploy.deploy(model, SPEC, cluster, progress=print)


def ask(endpoint: Endpoint, headers: dict[str, str], tokens: int = 4) -> dict[str, object]:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": endpoint.model, "messages": messages, "max_tokens": tokens, "ignore_eos": True}
    headers = headers | {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def test_a_model_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no model folder /no/such"):
        deploy.check_model("/no/such/model")
    with pytest.raises(SpecError, match="has no config"):
        deploy.check_model(str(tmp_path))
    deploy.check_model("organisation/model-1.5")


def test_an_option_that_vllm_does_not_have_is_refused_before_anything_starts(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "take", lambda name: pytest.fail("something was started"))
    for wrong in ({"foo": 1}, {"block_size": "abc"}, {"reasoning_parser": "qwen33"}):
        with pytest.raises(SpecError, match=rf"serving\.engine_kwargs\.{next(iter(wrong))}"):
            deploy.deploy(model, ServingSpec(engine_kwargs=wrong), HERE, progress=print)


def test_the_application_changes_its_name_with_what_it_serves(model: str) -> None:
    name = deploy.app_name(model, SPEC, gpus=0)
    assert name == deploy.app_name(model, SPEC.model_copy(update={"startup_timeout": 5.0}), gpus=0)
    assert name != deploy.app_name(model, SPEC.model_copy(update={"max_num_seqs": 9}), gpus=0)
    os.utime(Path(model) / "config.json", (1, 1))  # trained again, same path
    assert name != deploy.app_name(model, SPEC, gpus=0)


def test_engine_options_are_the_specs_with_yarn_and_engine_kwargs_last(model: str) -> None:
    spec = ServingSpec(yarn_factor=4, tensor_parallel_size=2, engine_kwargs={"enforce_eager": True, "block_size": 32})
    options = engine_kwargs(model, spec, gpus=2)
    rope = options["hf_overrides"]["rope_parameters"]
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 4, 512)
    assert (options["tensor_parallel_size"], options["enforce_eager"], options["block_size"]) == (2, True, 32)
    assert engine_kwargs(model, ServingSpec(), gpus=0)["dtype"] == "float32"


def test_capacity_follows_replicas_and_sequences() -> None:
    assert deploy.capacity(ServingSpec(max_num_seqs=100, replicas=2), gpus=8) == 250
    assert deploy.capacity(ServingSpec(engine_kwargs={"max_num_seqs": 16}), gpus=0) == 20


def test_capacity_needs_no_look_at_the_model() -> None:
    assert deploy.capacity(ServingSpec(max_num_seqs=100, yarn_factor=4), gpus=1) == 125
    assert deploy.capacity(ServingSpec(yarn_factor=4), gpus=0) == 40


def test_yarn_reads_the_config_of_a_folder_in_the_home(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(model).parent))
    options = engine_kwargs(f"~/{Path(model).name}", ServingSpec(yarn_factor=2), gpus=1)
    assert options["hf_overrides"]["rope_parameters"]["factor"] == 2


@pytest.mark.parametrize("config", ["no JSON", '{"model_type": "unheard-of"}', '{"model_type": "bloom"}'])
def test_yarn_of_a_config_that_cannot_serve_is_a_mistake_in_the_spec(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(SpecError, match="yarn_factor") as told:
        engine_kwargs(str(tmp_path), ServingSpec(yarn_factor=4), gpus=1)
    assert "hf_overrides" in str(told.value)
    assert "\n" not in str(told.value)


class FakeServe:
    """Applications as Serve would show them, each with the states that it goes through, look by look."""

    def __init__(self, patch: pytest.MonkeyPatch, **states: list[str | None]) -> None:
        self.states = {name.replace("_", "-"): list(reversed(given)) for name, given in states.items()}
        self.started: list[str] = []
        self.deleted: list[str] = []
        self.leases: list[str] = []
        patch.setattr("ray.serve.status", self.status)
        patch.setattr("ray.serve.delete", self.delete)
        patch.setattr("ray.util.list_named_actors", lambda: self.leases)
        patch.setattr(deploy, "_run", lambda name, *_: self.started.append(name))
        patch.setattr(lease, "take", lambda name: None)
        patch.setattr(deploy, "wait_first_token", lambda *_: None)
        patch.setattr("orchestrator.serving.wait.POLL", 0.0)

    def status(self) -> SimpleNamespace:
        seen = {name: states.pop() if len(states) > 1 else states[0] for name, states in self.states.items()}
        return SimpleNamespace(
            applications={
                name: SimpleNamespace(status=SimpleNamespace(value=state), deployments={})
                for name, state in seen.items()
                if state
            }
        )

    def delete(self, name: str, _blocking: bool = True) -> None:
        self.deleted.append(name)
        self.states[name] = [None]


HERE = Cluster("local", Path("runs"), "127.0.0.1", 8000, 0, None)
APP = Endpoint("http://127.0.0.1:8000/kosen-m/v1", "m", serve_app="kosen-m")


@pytest.mark.parametrize("gone", [None, "DELETING"])
def test_an_application_that_vanishes_is_started_again(gone: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job started it, and deleted it when its own start failed."""
    fake = FakeServe(monkeypatch, kosen_m=["DEPLOYING", "DEPLOYING", gone, None, "DEPLOYING", "RUNNING"])
    lines: list[str] = []
    deploy._bring_up(APP, SPEC, HERE, lines.append)
    assert fake.started == ["kosen-m"]
    assert [line for line in lines if "another process deleted kosen-m" in line]


def test_an_application_that_vanishes_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServe(monkeypatch, kosen_m=[None])
    with pytest.raises(EndpointDown, match="was deleted 2 times"):
        deploy._bring_up(APP, SPEC, HERE, print)
    assert fake.started == ["kosen-m"] * 2


def test_an_endpoint_that_vanishes_before_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServe(monkeypatch, kosen_m=[None])
    monkeypatch.setattr("orchestrator.serving.wait._try_first_token", lambda _: "404")
    with pytest.raises(Vanished):
        wait_first_token(APP, time.monotonic() + 60, SPEC)


@pytest.mark.parametrize(("others", "deleted"), [([], True), (["kosen-lease-{name}-1234abcd"], False)])
def test_an_interrupted_start_gives_the_application_back(
    model: str, others: list[str], deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeServe(monkeypatch)
    name = deploy.app_name(model, SPEC, 0)
    fake.states[name] = ["DEPLOYING"]
    fake.leases = [held.format(name=name) for held in others]

    def interrupt(line: str) -> None:
        if line.startswith("starting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy.deploy(model, SPEC, HERE, progress=interrupt)
    assert fake.deleted == [name] * deleted


def test_our_endpoints_are_asked_without_a_proxy(
    scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert _call(Endpoint(scripted_server.base_url, "scripted"), "/models")["data"]


def test_an_error_log_is_cut_down_to_what_says_something() -> None:
    log = '\n  File "a.py", line 1\n\x1b[31mINFO ready\x1b[0m\nValueError: no such tensor\nValueError: no such tensor\n'
    assert meaningful_lines(log) == ["ValueError: no such tensor"]


@pytest.mark.timeout(400)
def test_the_endpoint_answers_to_its_key_only(endpoint: Endpoint) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(endpoint, headers)
        assert refused.value.code == 401
    root = endpoint.base_url.removesuffix("/v1")
    for path in ("/v1/models", "/metrics", "/docs", "/version"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(root + path, timeout=10)
        assert refused.value.code == 401
    assert ask(endpoint, endpoint.headers())["model"] == endpoint.model
    with urllib.request.urlopen(root + "/health", timeout=10) as health:
        assert health.status == 200


def test_the_engines_numbers_are_read_while_it_works(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + 60  # Ray renews its pages every 10 s
    with ThreadPoolExecutor(12) as users:
        while True:
            answers = [users.submit(ask, endpoint, endpoint.headers(), tokens=100) for _ in range(48)]
            found = readings(pages := read_pages())
            wait(answers)
            if any(reading.running and reading.asked for reading in found.values()):
                break
            assert time.monotonic() < deadline, found
    [replica] = live_replicas(str(endpoint.serve_app))
    reading = found[replica]  # Serve's numbers are in it too
    assert 0 < reading.running <= 8
    assert 0 <= reading.waiting <= 4
    assert 0 < reading.kv_usage < 1
    assert 0 < reading.asked <= 48
    assert reading.prompts > 0
    assert reading.finished > 0
    assert any("ray_vllm_generation_tokens_total{" in page for page in pages)  # how a counter of vLLM's is called


def test_the_engine_finds_what_the_user_has_on_the_path(endpoint: Endpoint, cluster: Cluster) -> None:
    engine = next(process for process in psutil.process_iter() if _is_engine_of(process, cluster))
    assert engine.environ()["PYTHONPATH"].split(os.pathsep) == [str(REPOSITORY), SITE_MODULES]


def test_the_same_configuration_is_reused_at_once(endpoint: Endpoint, model: str, cluster: Cluster) -> None:
    lines: list[str] = []
    started = time.monotonic()
    assert deploy.deploy(model, SPEC, cluster, progress=lines.append) == endpoint
    assert time.monotonic() - started < 3
    assert "running deployment" in lines[0]


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stands still"])
def test_an_engine_comes_back(endpoint: Endpoint, cluster: Cluster, how: str) -> None:
    engine = next(process for process in psutil.process_iter() if _is_engine_of(process, cluster))
    if how == "killed":
        engine.kill()
    else:
        engine.suspend()
        [replica] = live_replicas(str(endpoint.serve_app))
        end_engine(str(endpoint.serve_app), replica)
    deadline = time.monotonic() + 150
    while True:
        try:
            ask(endpoint, endpoint.headers())
            if not engine.is_running():
                break
        except OSError:
            assert time.monotonic() < deadline, "the engine did not come back"
        time.sleep(0.5)


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("what", ["engine", "replica"])
def test_what_hangs_under_requests_is_replaced_and_they_are_answered(
    endpoint: Endpoint, cluster: Cluster, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGSTOP. A replica that hangs is noticed by Serve itself, an engine only by the tokens that miss."""
    monkeypatch.setattr(controller, "STALLED", 20.0)
    monkeypatch.setattr(controller, "QUIET", 5.0)
    events: list[str] = []
    deadline = time.monotonic() + 30
    while not any(reading.tokens for reading in readings(read_pages()).values()):
        ask(endpoint, endpoint.headers())
        assert time.monotonic() < deadline
    engine = next(process for process in psutil.process_iter() if _is_engine_of(process, cluster))
    hung = engine if what == "engine" else psutil.Process(engine.ppid())

    async def ask_all() -> list[str]:
        client = ChatClient(endpoint, window=8, request_timeout=300)
        outcomes = await asyncio.gather(*(client.ask([{"role": "user", "content": "?"}], {}) for _ in range(8)))
        await client.close()
        return [outcome.status for outcome in outcomes]

    hung.suspend()
    window = EngineWindow(engines=1, seats=8, most=10)
    with steered(str(endpoint.serve_app), window, tell=print, note=lambda event, **_: events.append(event)):
        assert asyncio.run(ask_all()) == ["ok"] * 8
    assert not engine.is_running() and not hung.is_running()
    stalls = [event for event in events if event.startswith("engine_")]
    assert what == "replica" or (stalls[:2], stalls.count("engine_stalled")) == (["engine_silent", "engine_stalled"], 1)


def _is_engine_of(process: psutil.Process, cluster: Cluster) -> bool:
    assert cluster.state is not None
    try:
        mine = process.environ().get("RAY_TMPDIR") == cluster.state.temp_dir
        return mine and "EngineCore" in " ".join([process.name(), *process.cmdline()])
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


@pytest.mark.timeout(400)
def test_an_engine_that_cannot_start_says_why_and_is_removed(cluster: Cluster, model: str) -> None:
    too_long = SPEC.model_copy(update={"max_model_len": 4096})
    with pytest.raises(EndpointDown, match="max_model_len"):
        deploy.deploy(model, too_long, cluster, progress=print)
    assert app_status(deploy.app_name(model, too_long, 0)) in (None, "DELETING")


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_engines_whose_processes_end_as_they_start_are_told_of(
    cluster: Cluster, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = deploy.runtime_env
    broken = {"PYTHONHOME": "/nowhere"}  # an interpreter without its library
    monkeypatch.setattr(
        deploy, "runtime_env", lambda *args: (env := whole(*args)) | {"env_vars": env["env_vars"] | broken}
    )
    lines: list[str] = []
    impatient = SPEC.model_copy(update={"startup_timeout": 100, "max_num_seqs": 7})
    with pytest.raises(EndpointDown, match="PYTHONHOME = '/nowhere'"):
        deploy.deploy(model, impatient, cluster, progress=lines.append)
    assert any("engine 1 starting (no worker process after 30 s" in line for line in lines)


@pytest.mark.timeout(200)
def test_what_a_killed_job_left_is_deleted_unless_somebody_holds_it(endpoint: Endpoint, cluster: Cluster) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Idle:
        pass

    names = ["kosen-left-00000000", "kosen-held-00000000", "kosen-wanted-00000000", "another"]
    apps = [serve.RunTarget(Idle.bind(), name=name, route_prefix=f"/{name}") for name in names]  # type: ignore[attr-defined]
    serve.run_many(apps, wait_for_applications_running=False)
    lease.take(names[1])
    lines: list[str] = []
    deploy._delete_abandoned(names[2], lines.append)
    left = {name for name, status in app_statuses().items() if status != "DELETING"}
    assert left == {*names[1:], str(endpoint.serve_app)}
    assert len(lines) == 1
    assert names[0] in lines[0]
    deploy.release(Endpoint("", "", serve_app=names[1]), cluster)
    assert names[1] not in app_statuses()
    for name in names[2:]:
        serve.delete(name)


def test_release_deletes_what_nobody_else_uses(endpoint: Endpoint, cluster: Cluster) -> None:
    deploy.release(endpoint, cluster)
    assert app_status(str(endpoint.serve_app)) in (None, "DELETING")
