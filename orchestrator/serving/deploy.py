"""vLLM behind Ray Serve: deploy an endpoint, wait until it is truly ready, and release it.

An application's name carries a hash of its configuration, so that two jobs that want the same share one, and others
live beside it on the same proxy, each under its own route.
"""

import hashlib
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from orchestrator.concurrency.window import QUEUE
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.files import expanded
from orchestrator.ray_cluster.connect import Cluster, python_path
from orchestrator.ray_cluster.find import DIRECT
from orchestrator.secrets import endpoint_key
from orchestrator.serving.check import check_options
from orchestrator.serving.logs import LAST_WORDS, engine_log, meaningful_lines, workers_last_words
from orchestrator.serving.options import deployment_config, engine_kwargs, max_num_seqs, model_source
from orchestrator.spec import ServingSpec

NO_PROCESS = "for more than 30 s without a process: no room, or it ends as it starts"
POLL = 0.5  # seconds between looks at a starting deployment
STARTS = 2  # of one application that somebody else deletes before it is ready
CPU_KV_CACHE_GIB = 1
# 200 requests a second: a replica takes in 230 with an H200's host's CPU, and Serve's proxy, which is one, about 400.
FIRST = 50
_leases: dict[str, Any] = {}  # our lease actors by application; dropping the handle ends the actor

Progress = Callable[[str], None]


def deploy(model: str, spec: ServingSpec, cluster: Cluster, *, progress: Progress) -> Endpoint:
    """Serve `model` (a local folder, or a name on the hub) and return its endpoint once one token came back.

    `spec` has its sizes: `parallelism: auto` is settled before (orchestrator.planning.on_cluster).
    A running application of the same configuration is used as it is. `progress` gets a line whenever the state changes.
    Raises SpecError for a model or options that cannot be, EndpointDown with the end of the engine's log when it does
    not start.
    """
    check_model(model)
    check_options(spec)
    name = app_name(model, spec, cluster.gpus)
    base_url = f"http://{cluster.serve_host}:{cluster.serve_port}/{name}/v1"
    endpoint = Endpoint(base_url=base_url, model=model, serve_app=name)
    _take_lease(name)
    try:
        _delete_abandoned(name, progress)
        _bring_up(endpoint, spec, cluster, progress)
    except BaseException:  # an interrupted job too must not leave GPUs occupied
        release(endpoint, cluster)
        raise
    return endpoint


def release(endpoint: Endpoint, cluster: Cluster, *, wait: bool = True) -> None:
    """Give the endpoint back; its application is deleted unless another live job holds a lease on it.

    Without `wait` Serve goes on deleting when this returns, which takes long where an engine hangs.
    """
    name = endpoint.serve_app
    if name is None:
        return
    _drop_lease(name)  # first: of two jobs that leave together, the later one sees no other lease
    if _app_status(name) not in (None, "DELETING") and not _leases_on(name):
        _delete(name, wait=wait)


def _bring_up(endpoint: Endpoint, spec: ServingSpec, cluster: Cluster, progress: Progress) -> None:
    name, deadline = str(endpoint.serve_app), time.monotonic() + spec.startup_timeout
    for _ in range(STARTS):
        try:
            _start(name, endpoint.model, spec, cluster, progress)
            _wait_running(name, deadline, spec, progress)
            _wait_first_token(endpoint, deadline, spec)
            return
        except _Vanished:
            progress(f"somebody else deleted {name} before it was ready")
    raise EndpointDown(
        f"{name} was deleted {STARTS} times before it was ready, though this job holds it. See who calls serve.delete "
        "or `serve shutdown` on this cluster, then give the command again"
    )


def _start(name: str, model: str, spec: ServingSpec, cluster: Cluster, progress: Progress) -> None:
    """Deploy, unless the application runs or another job is starting it."""
    status = _app_status(name)
    if status == "RUNNING":
        progress(f"using the running deployment {name}")
    elif status in ("DEPLOYING", "NOT_STARTED"):
        progress(f"another job is starting {name}: waiting for it")
    else:
        progress(f"deploying {describe(model, spec, cluster.gpus)} as {name}")
        if status == "DELETING":
            _delete(name)  # returns when it is gone
        _run(name, model, spec, cluster)


def _delete_abandoned(wanted: str, progress: Progress) -> None:
    """Delete our applications that no living job holds; a driver that was killed left them on their GPUs.

    A job takes its lease before it looks for its application, and leases are read at the last moment. Should a job
    come between the two, it finds its application gone and starts it again.
    """
    for name, status in _app_statuses().items():
        if name.startswith("kosen-") and name != wanted and status != "DELETING" and not _leases_on(name):
            progress(f"deleting {name}: the job that started it is gone")
            _delete(name)


def _delete(name: str, *, wait: bool = True) -> None:
    from ray import serve

    _silence("ray.serve")
    with suppress(TimeoutError):  # Serve goes on deleting
        serve.delete(name, _blocking=wait)


def _silence(*loggers: str) -> None:
    """What libraries tell on the user's terminal; their errors reach us as exceptions."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)


class _Vanished(Exception):
    """An application that was there is there no more."""


def describe(model: str, spec: ServingSpec, gpus: int | None) -> str:
    """What would be started, in a line; `gpus` None: the cluster is not known yet."""
    if spec.parallelism == "auto" and gpus != 0:
        return (
            f"{model} on vLLM, as the cluster's GPUs suggest (python -m orchestrator.plan --model {model} --gpu KIND)"
        )
    replicas = f"{spec.replicas}" if not spec.max_replicas else f"{spec.replicas} to {spec.max_replicas}"
    device = "CPU" if gpus == 0 else f"{_world_size(spec)} GPU" + ("" if gpus else " (CPU where there is none)")
    return f"{model} on vLLM, {replicas} replica(s) of {device} each"


def capacity(spec: ServingSpec, gpus: int) -> int:
    """Requests to keep in flight: what all replicas decode at once, and their queues."""
    return int((1 + QUEUE) * max_num_seqs(spec, gpus) * (spec.max_replicas or spec.replicas))


def opening(spec: ServingSpec, gpus: int) -> int:
    """Requests to begin with, and to add every `following.OPENING` seconds, until there are as many as wanted."""
    return min(FIRST * min(spec.replicas, 2), capacity(spec, gpus))


def app_name(model: str, spec: ServingSpec, gpus: int) -> str:
    """`kosen-<model>-<hash>`; the hash covers what the deployment depends on, the files of a local model included."""
    options = spec.model_dump(exclude={"startup_timeout", "chat_template_kwargs", "parallelism"})
    identity = json.dumps([model, _files(model), options, gpus > 0], sort_keys=True)
    slug = re.sub(r"[^a-z0-9]+", "-", Path(model).name.lower()).strip("-")[:40]
    return f"kosen-{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_model(model: str) -> None:
    """Raise SpecError unless `model` is a folder with a config.json, or could be a name on the hub."""
    folder = expanded(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SpecError(f"{model} has no config.json, so it is no Hugging Face model folder. Give model=<folder>")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith((".", "/")) or model.count("/") != 1:
        raise SpecError(f"there is no model folder {model}, and it is no hub name (organisation/model). Check model=")


def _run(name: str, model: str, spec: ServingSpec, cluster: Cluster) -> None:
    from ray import serve

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of this process, which only imports it
    _silence("ray.serve", "ray.llm", "vllm", "httpx", "httpx2", "openai")
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": cluster.serve_host, "port": cluster.serve_port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    target = serve.RunTarget(_application(name, model, spec, cluster), name=name, route_prefix=f"/{name}")
    serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)


def _application(name: str, model: str, spec: ServingSpec, cluster: Cluster) -> Any:
    """One deployment, whose replicas are what Serve's proxy sends requests to."""
    from ray import serve
    from ray.serve.llm import build_llm_deployment

    from orchestrator.serving.server import GuardedServer, key_digest

    options = {"digest": key_digest(endpoint_key(name))} | _engine_class(cluster)
    return build_llm_deployment(
        _llm_config(model, spec, cluster),
        name_prefix="LLMServer:",
        bind_kwargs=options,
        deployment_cls=serve.ingress()(GuardedServer),
    )


def _engine_class(cluster: Cluster) -> dict[str, Any]:
    if cluster.gpus:
        return {}
    from orchestrator.serving.cpu_engine import OneProcessEngine

    return {"engine_cls": OneProcessEngine}


def _llm_config(model: str, spec: ServingSpec, cluster: Cluster) -> Any:
    from ray.serve.llm import LLMConfig, ModelLoadingConfig

    from orchestrator.serving.server import EngineStart

    options = engine_kwargs(model, spec, cluster.gpus)
    return LLMConfig(
        model_loading_config=ModelLoadingConfig(model_id=model, model_source=model_source(model)),
        accelerator_config={"kind": "gpu" if cluster.gpus else "cpu"},
        placement_group_config=_placement(spec, cluster),
        deployment_config=deployment_config(spec, options),
        engine_kwargs=options,
        runtime_env=runtime_env(cluster),
        callback_config={"callback_class": EngineStart},
    )


def _placement(spec: ServingSpec, cluster: Cluster) -> dict[str, Any]:
    """One bundle a worker. A replica that fits into a host stays there: tensor parallelism across hosts is slow."""
    if not cluster.gpus:
        return {"bundle_per_worker": {"CPU": 1}, "strategy": "PACK"}
    per_host = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    strategy = "STRICT_PACK" if _world_size(spec) <= per_host else "PACK"
    return {"bundle_per_worker": {"GPU": 1, "CPU": 1}, "strategy": strategy}


def runtime_env(cluster: Cluster) -> dict[str, Any]:
    """The job's own environment and what vLLM reads; nothing secret, the jobs API shows it."""
    inherited = dict(ray.get_runtime_context().runtime_env)
    variables = dict(inherited.get("env_vars", {})) | _passed_on("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
    variables["VLLM_NO_USAGE_STATS"] = "1"
    if cluster.is_local:
        variables["PYTHONPATH"] = python_path()
    if not cluster.gpus:
        variables |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray reserves logical CPUs, not cores to bind to
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
        }
    hook = "orchestrator.secrets.set_up_worker"
    return inherited | {"env_vars": variables, "worker_process_setup_hook": hook}


def _passed_on(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _world_size(spec: ServingSpec) -> int:
    return spec.tensor_parallel_size * spec.pipeline_parallel_size


def _files(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a local model's files: a folder that was trained again is another model."""
    folder = expanded(model)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


def _app_statuses() -> dict[str, str]:
    from ray import serve

    return {name: str(app.status.value) for name, app in serve.status().applications.items()}


def _app_status(name: str) -> str | None:
    return _app_statuses().get(name)


def _wait_running(name: str, deadline: float, spec: ServingSpec, progress: Progress) -> None:
    """Wait for an application that is deployed; raises _Vanished when it is deleted meanwhile."""
    from ray import serve

    shown = ""
    while True:
        app = serve.status().applications.get(name)
        if app is None or app.status.value == "DELETING":
            raise _Vanished
        status = str(app.status.value)
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            message = "; ".join(d.message for d in app.deployments.values() if d.message)
            raise _failed(name, f"the deployment is {status}", message)
        if time.monotonic() > deadline:
            seen = f"it is still {status} after startup_timeout={spec.startup_timeout:.0f} s"
            if any(map(_has_no_process, app.deployments.values())):
                words = "\n".join(meaningful_lines(workers_last_words(), LAST_WORDS))
                raise EndpointDown(
                    f"{name} did not start: {seen}, {NO_PROCESS}. The nodes' daemons wrote last:\n{words}"
                )
            raise _failed(name, seen, "")
        line = _progress_line(app)
        if line != shown:
            progress(line)
            shown = line
        time.sleep(POLL)


def _progress_line(app: Any) -> str:
    parts = [
        f"{name.removeprefix('LLMServer:')} {' '.join(f'{count} {state.lower()}' for state, count in states.items())}"
        + (f" ({NO_PROCESS})" if _has_no_process(deployment) else "")
        for name, deployment in sorted(app.deployments.items())
        if (states := {str(getattr(k, "value", k)): v for k, v in deployment.replica_states.items() if v})
    ]
    return "starting: " + (", ".join(parts) or "waiting for Serve")


def _has_no_process(deployment: Any) -> bool:
    """Whether Serve says that a replica has waited half a minute, for resources or for a worker that registers."""
    return "to be scheduled" in deployment.message


def _failed(name: str, seen: str, message: str) -> EndpointDown:
    """The error to raise, with what the engine wrote last."""
    log = "\n".join(meaningful_lines(engine_log(name)) + meaningful_lines(message))
    return EndpointDown(f"{name} did not start: {seen}. The end of the engine's log:\n{log}")


def _wait_first_token(endpoint: Endpoint, deadline: float, spec: ServingSpec) -> None:
    """Until `/v1/models` lists our id and a chat request brings a token, through the proxy as clients go."""
    while (seen := _try_first_token(endpoint)) is not None:
        if _app_status(str(endpoint.serve_app)) in (None, "DELETING"):
            raise _Vanished
        if time.monotonic() > deadline:
            reason = f"no token within startup_timeout={spec.startup_timeout:.0f} s ({seen})"
            raise _failed(str(endpoint.serve_app), reason, "")
        time.sleep(POLL)


def _try_first_token(endpoint: Endpoint) -> str | None:
    """None once a token came, else why not yet. The proxy learns a new route some moments after the start (404, 503);
    whatever else goes wrong with the first request will go wrong with the second: an engine that dies of it is
    restarted for ever."""
    messages = [{"role": "user", "content": "1"}]
    try:
        listed = [entry["id"] for entry in _call(endpoint, "/models")["data"]]
        if endpoint.model not in listed:
            raise EndpointDown(f"{endpoint.base_url}/models lists {listed}, expected {endpoint.model!r}")
        _call(endpoint, "/chat/completions", {"model": endpoint.model, "messages": messages, "max_tokens": 1})
    except urllib.error.HTTPError as error:
        words = f"{error.code}: {error.read().decode(errors='replace')[:300]}"
        if error.code not in (404, 503):
            raise _failed(str(endpoint.serve_app), f"the first request was answered with {words}", "") from None
        return words
    except OSError as error:
        return str(error)
    return None


def _call(endpoint: Endpoint, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = json.dumps(body).encode() if body else None
    headers = endpoint.headers() | {"Content-Type": "application/json"}
    request = urllib.request.Request(endpoint.base_url + path, data=data, headers=headers)
    with DIRECT.open(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def _take_lease(name: str) -> None:
    """An actor that lives as long as this job: others see by its name that the application is in use."""
    if name not in _leases:
        lease = f"kosen-lease-{name}-{uuid.uuid4().hex[:8]}"
        _leases[name] = ray.remote(_Lease).options(num_cpus=0, max_restarts=-1, name=lease).remote()


def _drop_lease(name: str) -> None:
    lease = _leases.pop(name, None)
    if lease is not None:
        ray.kill(lease)


def _leases_on(name: str) -> list[str]:
    prefix = f"kosen-lease-{name}-"
    return [found for found in ray.util.list_named_actors() if str(found).startswith(prefix)]


class _Lease:
    """Holds nothing but its own name."""
