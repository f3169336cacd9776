"""Who has no token gets nothing from a cluster, and a planted secret is found nowhere."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from tests.support.harness import numbered, write_exam
from tests.support.mini_slurm import MiniSlurm
from tests.support.namespaces import wait_until
from tests.support.slurm_harness import UP_SECONDS, Finished, Kosen, ended
from tests.support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ROUTE = re.compile(r"<ResourceRoute \[(\w+)\] <(\w+)\s+(/\S*?)(?:>| ->)")  # as Ray's servers log them when they start
REFUSED = (401, 403)
# Everything of Ray that answers without a token. Ray's own page must load before it can ask for one.
OPEN_PAGES = {"GET /", "GET /favicon.ico", "GET /static/0", "GET /api/authentication_mode", "GET /api/gcs_healthz"}
OPEN_OF_AGENTS = {"GET /api/healthz", "GET /api/local_raylet_healthz"}
METRICS = {"metrics_export", "autoscaler_metrics", "dashboard_metrics"}
METHODS = {  # a call of each gRPC service
    "gcs": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "node_manager": "/ray.rpc.NodeManagerService/GetNodeStats",
    "object_manager": "/ray.rpc.ObjectManagerService/Pull",
    "agent_grpc": "/ray.rpc.ReporterService/HealthCheck",
    "ray_client": "/ray.rpc.RayletDriver/ClusterInfo",
}
WRONG = "0123456789abcdef" * 4
IN_SHELL = {"OPENAI_API_KEY": "planted-openai-41d7", "HF_TOKEN": "planted-hf-9c02", "WANDB_API_KEY": "planted-wb-77ab"}
IN_FILE = {"MY_SERVICE_KEY": "planted-service-e6f1", "HUGGING_FACE_HUB_TOKEN": "planted-hub-5b3d"}
TOKEN = "the cluster's token"
SERVER_PORT = 9137
SERVER = """
import os, time
from tests.support.scripted_server import ScriptedServer
with ScriptedServer(api_key=os.environ["SERVED_KEY"], port={port}):
    time.sleep(240)
"""
INIT = "import ray; ray.init(address={address!r}, logging_level='ERROR'); print('got in', len(ray.nodes()))"
DEPLOY = """
import json, sys, urllib.error, urllib.request
from orchestrator.serving import deploy
from orchestrator.ray_cluster.connect import connect
from orchestrator.serving.spec import ServingSpec

def ask(url, headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code

with connect() as cluster:
    spec = ServingSpec(max_num_seqs=8, startup_timeout=240)
    endpoint = deploy.deploy(sys.argv[1], spec, cluster, progress=lambda line: print(line, file=sys.stderr))
    url = endpoint.base_url + "/models"
    wrong = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic wrong"}]
    print(json.dumps([ask(url, headers) for headers in [*wrong, endpoint.headers()]]))
    deploy.release(endpoint, cluster)
"""


@pytest.fixture(scope="module")
def running(slurm: MiniSlurm) -> Iterator[Kosen]:
    """A ready cluster of two nodes without GPUs, started from a shell that is full of secrets."""
    home = Path(tempfile.mkdtemp(dir=slurm.directory / "home"))
    secrets = home / "secrets.env"
    secrets.write_text("".join(f"{name}={value}\n" for name, value in IN_FILE.items()))
    secrets.chmod(0o600)
    kosen = Kosen(slurm, home)
    with ended(kosen):
        kosen.up("c", 2, "gpus_per_node=0", **IN_SHELL)
        yield kosen
    shutil.rmtree(home)


def state_of(kosen: Kosen) -> dict[str, Any]:
    state = kosen.state()
    assert state
    return state


def token_of(kosen: Kosen) -> str:
    return (kosen.home / "clusters" / "c" / "token").read_text()


def ask(method: str, url: str, token: str | None) -> tuple[int, bytes]:
    """Status and body of the answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = b"" if method in ("POST", "PUT") else None
    request = urllib.request.Request(url, method=method, headers=headers, data=data)
    try:
        with DIRECT.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def logged_routes(kosen: Kosen, node: str, log: str) -> list[tuple[str, str]]:
    """Method and path of every route that a server of Ray on `node` registered, its parameters filled in."""
    (file,) = kosen.slurm.node_dir(node).glob(f"tmp/kosen-*/r/session_2*/logs/{log}")
    found = ROUTE.findall(file.read_text())
    static = {"StaticResource": "/0"}
    return [(method, re.sub(r"{\w+}", "0", path) + static.get(kind, "")) for method, kind, path in found]


def servers(kosen: Kosen) -> Iterator[tuple[str, list[tuple[str, str]], set[str]]]:
    """Each HTTP server of Ray: its address, its routes, and those that may be open."""
    state = state_of(kosen)
    dashboard = [*logged_routes(kosen, "node1", "dashboard.log"), ("GET", "/api/snapshot"), ("GET", "/no-such-page")]
    assert len(dashboard) > 60
    yield state["dashboard_url"], dashboard, OPEN_PAGES
    for node in state["nodes"]:
        agent = logged_routes(kosen, node["name"], "dashboard_agent.log")
        assert len(agent) > 10
        yield f"http://{node['ip']}:{state['ports']['agent_http']}", agent, OPEN_OF_AGENTS
        environments = [("POST", f"/{call}") for call in ("get_or_create_runtime_env", "get_runtime_envs_info")]
        yield f"http://{node['ip']}:{state['ports']['runtime_env_agent']}", environments, set()


@pytest.mark.parametrize("token", [None, WRONG])
def test_every_route_but_the_named_ones_is_closed(running: Kosen, token: str | None) -> None:
    for base, routes, may_be_open in servers(running):
        status = {f"{method} {path}": ask(method, base + path, token)[0] for method, path in routes}
        assert {route for route, code in status.items() if code not in REFUSED} == may_be_open, base


def test_the_token_opens_what_can_be_read(running: Kosen) -> None:
    """Some profiling routes answer 403 to everybody; that is another text."""
    for base, routes, _ in servers(running):
        for method, path in routes:
            if method == "GET":
                status, body = ask(method, base + path, token_of(running))
                assert status != 401 and b"Invalid authentication token" not in body, (base, path)


def test_without_a_token_only_metrics_and_pages_are_on_any_port(running: Kosen) -> None:
    """Every port of the cluster's block that listens on a node, also those that nobody wrote down."""
    state = state_of(running)
    names = {port: name for name, port in state["ports"].items()}
    block = range(state["ports"]["gcs"], state["ports"]["worker_max"] + 2)
    for node in state["nodes"]:
        listening = running.slurm.listening(node["name"]) & set(block)
        answers = {names.get(port, str(port)): first_page(node["ip"], port) for port in listening}
        head = {"dashboard", *METRICS} if node is state["nodes"][0] else {"metrics_export"}
        assert {name for name, status in answers.items() if status == 200} == head


def first_page(ip: str, port: int) -> int | None:
    try:
        return ask("GET", f"http://{ip}:{port}/", None)[0]
    except (OSError, HTTPException):  # it does not speak HTTP/1
        return None


@pytest.mark.parametrize("token", [None, WRONG])
def test_every_grpc_service_is_closed(running: Kosen, token: str | None) -> None:
    import grpc

    state = state_of(running)
    head = state["nodes"][0]["name"]
    metadata = [("authorization", f"Bearer {token}")] if token else []
    for node in state["nodes"]:
        listening = running.slurm.listening(node["name"])
        here = {state["ports"][name]: method for name, method in METHODS.items()}
        workers = listening & set(range(state["ports"]["worker_min"], state["ports"]["worker_max"] + 1))
        here |= dict.fromkeys(workers, "/ray.rpc.CoreWorkerService/GetCoreWorkerStats")
        asked = set(here) & listening
        assert len(asked) >= (len(METHODS) if node["name"] == head else 3)
        for port in asked:
            with grpc.insecure_channel(f"{node['ip']}:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
                call = channel.unary_unary(here[port], bytes, bytes)
                with pytest.raises(grpc.RpcError) as told:
                    call(b"", timeout=10, metadata=metadata)
            assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED, (here[port], told.value.details())


@pytest.fixture
def stranger(running: Kosen) -> Iterator[Kosen]:
    """Somebody who knows everything of the cluster but its token."""
    home = Path(tempfile.mkdtemp(dir=running.slurm.directory / "home"))
    folder = home / "clusters" / "c"
    folder.mkdir(parents=True)
    for name in ("state.json", "request.json"):
        shutil.copy(running.home / "clusters" / "c" / name, folder)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(WRONG)
    yield Kosen(running.slurm, home)
    shutil.rmtree(home)


def python(kosen: Kosen, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    variables = kosen.environment | {"HOME": str(kosen.home)} | environment  # no ~/.ray/auth_token of anybody
    command = [sys.executable, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=variables, cwd=kosen.home, text=True, **pipes)  # type: ignore[call-overload]


def wrong_token(stranger: Kosen) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(stranger.home / "clusters" / "c" / "token")}


def test_rays_own_submit_is_refused(stranger: Kosen) -> None:
    submit = ["-m", "ray.scripts.scripts", "job", "submit", f"--address={state_of(stranger)['dashboard_url']}"]
    for environment, status in (({}, "Unauthorized"), (wrong_token(stranger), "Forbidden")):
        process = python(stranger, *submit, "--", "true", **environment)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert status in err


@pytest.mark.parametrize(
    ("module", "arguments", "imported"),
    [
        ("orchestrator.submit", "submit predict dataset=x model=y", "orchestrator.ray_cluster.jobs_api"),
        ("orchestrator.submit", "list", "orchestrator.ray_cluster.jobs_api"),
        ("orchestrator.submit", "stop some-job", "orchestrator.ray_cluster.jobs_api"),
        ("jobs.evaluate", "dataset={exam} model=m", "jobs.exam.run"),
        ("cluster", "status --name c", "cluster.commands.status"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_our_commands_say_so_at_once(stranger: Kosen, module: str, arguments: str, imported: str, named: bool) -> None:
    """Named or not: that another cluster is started on this machine instead would be a surprise."""
    exam = write_exam(stranger.home / "exam.jsonl", numbered(2))
    environment = {"KOSEN_CLUSTER": "c"} if named else {}
    imports = seconds(lambda: python(stranger, "-c", f"import {imported}").wait(60))  # which a busy machine may take
    told: list[Finished] = []
    took = seconds(
        lambda: told.append(
            stranger.run(module, *arguments.format(exam=exam).split(), timeout=UP_SECONDS, **environment)
        )
    )
    assert told[0].returncode == 4, told[0].stderr
    assert "token" in told[0].stderr + told[0].stdout and "Traceback" not in told[0].stderr
    assert took - imports < 5
    assert [path.name for path in (stranger.home / "clusters").iterdir()] == ["c"]  # no local one


def seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_ray_itself_does_not_get_in(stranger: Kosen) -> None:
    address = state_of(stranger)["ray_address"]
    client = f"ray://{address.split(':')[0]}:{state_of(stranger)['ports']['ray_client']}"
    tries = [(address, wrong_token(stranger)), (address, {}), (client, wrong_token(stranger)), (client, {})]
    processes = [python(stranger, "-c", INIT.format(address=where), **how) for where, how in tries]
    for process in processes:  # Ray itself gives up after 20 s, its client after 30
        out, _ = process.communicate(timeout=90)
        assert process.returncode != 0
        assert "got in" not in out


def test_private_files_are_their_owners_only(running: Kosen) -> None:
    folder = running.home / "clusters" / "c"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("token", "request.json", "ledger.jsonl"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600, name
    for node in ("node1", "node2"):  # Ray makes its own folder and sockets open to everybody
        (temp,) = running.slurm.node_dir(node).glob("tmp/kosen-*")
        assert temp.stat().st_mode & 0o777 == 0o700


@contextmanager
def model_servers(kosen: Kosen) -> Iterator[None]:
    """A scripted model on each node's loopback, which wants the key of the secrets file."""
    code = SERVER.format(port=SERVER_PORT)
    environment = {"SERVED_KEY": IN_FILE["MY_SERVICE_KEY"], "PYTHONPATH": str(REPOSITORY)}
    with ExitStack() as stack:
        for node in ("node1", "node2"):
            process = kosen.slurm.popen(node, [sys.executable, "-c", code], env=environment)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            wait_until(lambda node=node: SERVER_PORT in kosen.slurm.listening(node), 30, "no server")  # type: ignore[misc]
        yield


def secrets_of(kosen: Kosen) -> dict[str, str]:
    return {**IN_SHELL, **IN_FILE, TOKEN: token_of(kosen)}


def found_in_files(kosen: Kosen, secrets: dict[str, str]) -> list[str]:
    """Where a secret stands: state, logs and runs, Slurm's own files, and each node's private /tmp."""
    directory = kosen.slurm.directory
    folders = [kosen.home, directory / "state", directory / "log", directory / "nodes"]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    allowed = {kosen.home / "secrets.env", kosen.home / "clusters" / "c" / "token"}
    assert any(file.name == "environment" for file in files) or not kosen.jobs()  # what sbatch was given
    return [
        f"{name} in {file}"
        for file in files
        if file not in allowed and (content := read(file))
        for name, value in secrets.items()
        if value.encode() in content and not (file.name == "dashboard.log" and name == TOKEN and is_live(file))
    ]


def is_live(file: Path) -> bool:
    """Whether it lies in Ray's own folder, which only its owner enters. There Ray's dashboard itself writes down the
    headers of a request for the output of an unknown job; what Kosen keeps of that log has no token."""
    return any(part.startswith("kosen-") for part in file.parts) and "tmp" in file.parts


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # Ray tidies up while we look
        return b""


def views(kosen: Kosen, job_id: str) -> Iterator[tuple[str, str]]:
    """What a person with the token and every other user of the machine may see of a cluster and a job."""
    state = state_of(kosen)
    slurm_job = str(state["job_id"])
    for command in (["show", "job", "-dd"], ["write", "batch_script"]):
        yield f"scontrol {command[1]}", kosen.slurm_command("scontrol", *command, slurm_job, *script_to(command))
    for base, routes, _ in servers(kosen):
        urls = [path for method, path in routes if method == "GET"] + ["/nodes?view=summary", "/nodes?view=details"]
        urls += [f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/logs", "/api/v0/tasks?detail=1", "/api/v0/actors?detail=1"]
        for path in urls:
            yield base + path, ask("GET", base + path, token_of(kosen))[1].decode(errors="replace")
    for node in state["nodes"]:
        yield "metrics", ask("GET", f"http://{node['ip']}:{state['ports']['metrics_export']}/", None)[1].decode()
        for process in kosen.slurm.processes(node["name"]):
            yield f"argv of {process.pid}", process.command


def script_to(command: list[str]) -> list[str]:
    return ["-"] if command[1] == "batch_script" else []


def test_planted_secrets_reach_their_server_and_nothing_else(running: Kosen) -> None:
    exam = write_exam(running.home / "exam.jsonl", numbered(3))
    job = [f"dataset={exam}", "model=scripted", f"base_url=http://127.0.0.1:{SERVER_PORT}/v1", "provider=compatible"]
    with model_servers(running):
        submit = ["submit", "predict", *job, "api_key_env=MY_SERVICE_KEY", f"run={running.home}/runs/planted"]
        done = running.run("orchestrator.submit", *submit, timeout=UP_SECONDS, KOSEN_CLUSTER="c", **IN_SHELL)
    assert done.returncode == 0, done.stderr  # so the key came there
    secrets = secrets_of(running)
    assert not [name for name, value in secrets.items() if value in done.stdout + done.stderr]
    url = f"{state_of(running)['dashboard_url']}/api/jobs/"
    (submitted,) = json.loads(ask("GET", url, token_of(running))[1])[:1]
    seen = list(views(running, submitted["submission_id"]))
    assert len(seen) > 100
    assert any("exec " in text for where, text in seen if where == "scontrol batch_script")
    assert not [f"{name} in {where}" for where, text in seen for name, value in secrets.items() if value in text]
    variables = [f"{name}=" for name in (*IN_SHELL, *IN_FILE)]
    assert not [where for where, text in seen if where.startswith("argv") and any(v in text for v in variables)]
    assert found_in_files(running, secrets) == []


def test_an_endpoint_wants_its_key(running: Kosen) -> None:
    """A real vLLM behind Serve on the cluster, deployed by a driver on the head: 65 s on two cores."""
    assert [node["gpus"] for node in state_of(running)["nodes"]] == [
        0,
        0,
    ]  # not the nodes' own 8, nobody asked for them
    model = make_tiny_model(running.home / "tiny")
    driver = running.home / "deploy.py"
    driver.write_text(DEPLOY)
    environment = {"KOSEN_HOME": str(running.home), "KOSEN_CLUSTER": "c", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(driver), str(model)]
    done = running.slurm.run("node1", command, env=environment | {"TMPDIR": str(running.home)}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [401, 401, 401, 200]


def test_planted_secrets_are_nowhere_after_down_either(running: Kosen) -> None:
    """The last test of this module: Ray's logs lie in the cluster's folder now."""
    secrets = secrets_of(running)
    assert running.cluster("down", "--name", "c").returncode == 0
    logs = running.home / "clusters" / "c" / "logs"
    assert list(logs.rglob("raylet.out"))
    assert found_in_files(running, secrets) == []
