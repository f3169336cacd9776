"""Deploys vLLM behind Ray Serve as an endpoint that is truly ready, and releases it.

An application's name carries a hash of its configuration, so that two jobs that want the same share one, and others
live beside it on the same proxy, each under its own route.
"""

import hashlib
import json
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from cluster.files import expanded
from orchestrator.concurrency.window import QUEUE
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.ray_cluster.connect import Cluster, python_path
from orchestrator.secrets import endpoint_key
from orchestrator.serving import lease
from orchestrator.serving.check import check_options
from orchestrator.serving.options import deployment_config, engine_kwargs, max_num_seqs, model_source
from orchestrator.serving.spec import ServingSpec
from orchestrator.serving.wait import Progress, Vanished, app_status, app_statuses, wait_first_token, wait_running

STARTS = 2  # starts of one application that another process deletes before it is ready
CPU_KV_CACHE_GIB = 1
# 200 requests a second: a replica takes in 230 with an H200's host's CPU, and Serve's proxy, which is one, about 400.
FIRST = 50


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
    lease.take(name)
    try:
        _delete_abandoned(name, progress)
        _bring_up(endpoint, spec, cluster, progress)
    except BaseException:  # an interrupted job too must not leave GPUs occupied
        release(endpoint, cluster)
        raise
    return endpoint


def release(endpoint: Endpoint, cluster: Cluster, *, wait: bool = True) -> None:
    """Give the endpoint back; its application is deleted unless another live job holds a lease on it.

    Without `wait` Serve keeps deleting when this returns, which takes long where an engine hangs.
    """
    name = endpoint.serve_app
    if name is None:
        return
    lease.drop(name)  # first: of two jobs that leave together, the later one sees no other lease
    if app_status(name) not in (None, "DELETING") and not lease.holders(name):
        _delete(name, wait=wait)


def _bring_up(endpoint: Endpoint, spec: ServingSpec, cluster: Cluster, progress: Progress) -> None:
    name, deadline = str(endpoint.serve_app), time.monotonic() + spec.startup_timeout
    for _ in range(STARTS):
        try:
            _start(name, endpoint.model, spec, cluster, progress)
            wait_running(name, deadline, spec, progress)
            wait_first_token(endpoint, deadline, spec)
            return
        except Vanished:
            progress(f"another process deleted {name} before it was ready")
    raise EndpointDown(
        f"{name} was deleted {STARTS} times before it was ready, though this job holds it. See who calls serve.delete "
        "or `serve shutdown` on this cluster, then run the command again"
    )


def _start(name: str, model: str, spec: ServingSpec, cluster: Cluster, progress: Progress) -> None:
    """Deploy, unless the application runs or another job is starting it."""
    status = app_status(name)
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

    A job takes its lease before it searches its application, and leases are read at the last moment. Should a job
    come between the two, it finds its application gone and starts it again.
    """
    for name, status in app_statuses().items():
        if name.startswith("kosen-") and name != wanted and status != "DELETING" and not lease.holders(name):
            progress(f"deleting {name}: the job that started it is gone")
            _delete(name)


def _delete(name: str, *, wait: bool = True) -> None:
    from ray import serve

    _silence("ray.serve")
    with suppress(TimeoutError):  # Serve keeps deleting
        serve.delete(name, _blocking=wait)


def _silence(*loggers: str) -> None:
    """Silences what libraries print on the user's terminal; their errors reach us as exceptions."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)


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
            raise SpecError(f"{model} has no config.json: it is not a Hugging Face model folder. Give model=<folder>")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith((".", "/")) or model.count("/") != 1:
        raise SpecError(f"there is no model folder {model}, nor is it a hub name (organisation/model). Check model=")


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
