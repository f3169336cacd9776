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
from pathlib import Path
from typing import Any

import ray

from orchestrator.cluster import REPOSITORY, Cluster
from orchestrator.endpoint import Endpoint
from orchestrator.engine_log import engine_log, meaningful_lines
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.secrets import endpoint_key
from orchestrator.spec import ServingSpec

POLL = 0.5  # seconds between looks at a starting deployment
MAX_ONGOING = 1024  # requests that Serve hands to a replica; vLLM queues them better than Serve does
CPU_MAX_NUM_SEQS = 32
CPU_KV_CACHE_GIB = 1
GPU_MAX_NUM_SEQS = 256  # vLLM's default for a server; 1024 on GPUs with 70 GiB and more
QUEUE_FACTOR = 1.25  # requests in flight for each one that decodes: the next is there when one ends
# Serve LLM ends a request after 600 s; an answer with long reasoning takes longer. The client's deadline decides.
REQUEST_TIMEOUT = 86_400
_leases: dict[str, Any] = {}  # our lease actors by application; dropping the handle ends the actor

Progress = Callable[[str], None]


def deploy(model: str, spec: ServingSpec, cluster: Cluster, *, progress: Progress) -> Endpoint:
    """Serve `model` (a local folder, or a name on the hub) and return its endpoint once one token came back.

    A running application of the same configuration is used as it is. `progress` gets a line whenever the state changes.
    Raises SpecError for a model that cannot be, EndpointDown with the end of the engine's log when it does not start.
    """
    check_model(model)
    name = app_name(model, spec, cluster.gpus)
    base_url = f"http://{cluster.serve_host}:{cluster.serve_port}/{name}/v1"
    endpoint = Endpoint(base_url=base_url, model=model, serve_app=name)
    _take_lease(name)
    deadline = time.monotonic() + spec.startup_timeout
    status = _app_status(name)
    if status == "RUNNING":
        progress(f"using the running deployment {name}")
    elif status in ("DEPLOYING", "NOT_STARTED"):
        progress(f"another job is starting {name}: waiting for it")
    else:
        progress(f"deploying {describe(model, spec, cluster.gpus)} as {name}")
        _run(name, model, spec, cluster)
    _wait_running(name, deadline, spec, progress)
    _wait_first_token(endpoint, deadline, spec)
    return endpoint


def release(endpoint: Endpoint, cluster: Cluster) -> None:
    """Give the endpoint back; its application is deleted unless another live job holds a lease on it."""
    from ray import serve

    name = endpoint.serve_app
    if name is None or _app_status(name) is None:
        return
    lease = _leases.pop(name, None)
    if lease is not None:
        ray.kill(lease)
    if not _other_leases(name):
        serve.delete(name)


def describe(model: str, spec: ServingSpec, gpus: int | None) -> str:
    """What would be started, in a line; `gpus` None: the cluster is not known yet."""
    replicas = f"{spec.replicas}" if not spec.max_replicas else f"{spec.replicas} to {spec.max_replicas}"
    device = "CPU" if gpus == 0 else f"{_world_size(spec)} GPU" + ("" if gpus else " (CPU where there is none)")
    return f"{model} on vLLM, {replicas} replica(s) of {device} each"


def capacity(spec: ServingSpec, gpus: int) -> int:
    """Requests to keep in flight: what all replicas decode at once, times a factor that keeps their queues fed."""
    default = GPU_MAX_NUM_SEQS if gpus else CPU_MAX_NUM_SEQS
    sequences = int(engine_kwargs("", spec, gpus).get("max_num_seqs") or default)
    return int(QUEUE_FACTOR * sequences * (spec.max_replicas or spec.replicas))


def app_name(model: str, spec: ServingSpec, gpus: int) -> str:
    """`kosen-<model>-<hash>`; the hash covers what the deployment depends on, the files of a local model included."""
    options = spec.model_dump(exclude={"startup_timeout", "chat_template_kwargs"})
    identity = json.dumps([model, _files(model), options, gpus > 0], sort_keys=True)
    slug = re.sub(r"[^a-z0-9]+", "-", Path(model).name.lower()).strip("-")[:40]
    return f"kosen-{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_model(model: str) -> None:
    """Raise SpecError unless `model` is a folder with a config.json, or could be a name on the hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SpecError(f"{model} has no config.json, so it is no Hugging Face model folder. Give model=<folder>")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith((".", "/")) or model.count("/") != 1:
        raise SpecError(f"there is no model folder {model}, and it is no hub name (organisation/model). Check model=")


def engine_kwargs(model: str, spec: ServingSpec, gpus: int) -> dict[str, Any]:
    """vLLM's engine options: the spec's, those that a CPU needs, and last what `engine_kwargs` says."""
    names = (
        *("max_model_len", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens"),
        *("enable_chunked_prefill", "reasoning_parser"),
    )
    options = {name: value for name in names if (value := getattr(spec, name)) is not None}
    options |= {
        "tensor_parallel_size": spec.tensor_parallel_size,
        "pipeline_parallel_size": spec.pipeline_parallel_size,
        "dtype": spec.dtype,
        "enforce_eager": spec.enforce_eager,
    }
    overrides = (_yarn(model, spec.yarn_factor) if spec.yarn_factor else {}) | spec.hf_overrides
    if overrides:
        options["hf_overrides"] = overrides
    if not gpus:
        options = _cpu_options(options)
    return options | spec.engine_kwargs


def _cpu_options(options: dict[str, Any]) -> dict[str, Any]:
    """Small and quick to start: half precision is emulated on most CPUs, and compiling takes minutes."""
    options.pop("gpu_memory_utilization", None)
    return options | {
        "dtype": "float32" if options["dtype"] == "auto" else options["dtype"],
        "enforce_eager": True,
        "max_num_seqs": options.get("max_num_seqs", CPU_MAX_NUM_SEQS),
        # Without it a small model under a JSON grammar may write white space until its budget is spent.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }


def _yarn(model: str, factor: float) -> dict[str, Any]:
    """YaRN as vLLM takes it since 0.11.1; the original length is what the model's own config says."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    original = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    parameters |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    return {"rope_parameters": parameters}


def _run(name: str, model: str, spec: ServingSpec, cluster: Cluster) -> None:
    from ray import serve

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of this process, which only imports it
    for logger in ("ray.serve", "ray.llm", "vllm"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": cluster.serve_host, "port": cluster.serve_port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    target = serve.RunTarget(_application(name, model, spec, cluster), name=name, route_prefix=f"/{name}")
    serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)


def _application(name: str, model: str, spec: ServingSpec, cluster: Cluster) -> Any:
    """The same graph as `ray.serve.llm.build_openai_app` makes, from the same public pieces, but with our own app."""
    from ray import serve
    from ray.serve.llm import build_llm_deployment
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

    from orchestrator.ingress import guarded_app, key_digest

    config = _llm_config(model, spec, cluster)
    app = guarded_app(key_digest(endpoint_key(name)))
    ingress = serve.deployment(
        make_fastapi_ingress(OpenAiIngress, app=app),
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=1_000_000,
        ray_actor_options={"num_cpus": 1, "runtime_env": _runtime_env(cluster)},
    )
    card = _model_card(model, config)
    engine = build_llm_deployment(config, bind_kwargs=_engine_class(cluster))
    return ingress.bind(llm_deployments={model: engine}, model_cards={model: card})


def _engine_class(cluster: Cluster) -> dict[str, Any]:
    if cluster.gpus:
        return {}
    from orchestrator.engine import OneProcessEngine

    return {"engine_cls": OneProcessEngine}


def _model_card(model: str, config: Any) -> Any:
    from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata

    return to_model_metadata(model, config)


def _llm_config(model: str, spec: ServingSpec, cluster: Cluster) -> Any:
    from ray.serve.llm import LLMConfig, ModelLoadingConfig

    from orchestrator.ingress import EngineStart

    options = engine_kwargs(model, spec, cluster.gpus)
    return LLMConfig(
        model_loading_config=ModelLoadingConfig(model_id=model, model_source=_source(model)),
        accelerator_config={"kind": "gpu" if cluster.gpus else "cpu"},
        placement_group_config=_placement(spec, cluster),
        deployment_config=_deployment_config(spec, options),
        engine_kwargs=options,
        runtime_env=_runtime_env(cluster),
        callback_config={"callback_class": EngineStart},
    )


def _deployment_config(spec: ServingSpec, options: dict[str, Any]) -> dict[str, Any]:
    ongoing = max(MAX_ONGOING, 2 * int(options.get("max_num_seqs") or 0))
    scale: dict[str, Any] = {"num_replicas": spec.replicas}
    if spec.max_replicas and spec.max_replicas > spec.replicas:
        target = int(options.get("max_num_seqs") or GPU_MAX_NUM_SEQS)
        limits = {"min_replicas": spec.replicas, "max_replicas": spec.max_replicas}
        scale = {"autoscaling_config": limits | {"target_ongoing_requests": target}}
    return scale | {
        "name": "engine",
        "max_ongoing_requests": ongoing,
        "health_check_period_s": 1,  # a dead engine fails fast, so it draws requests until Serve has noticed
        "max_constructor_retry_count": 1,  # what is wrong with a model or its memory is wrong the second time too
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 5,
    }


def _placement(spec: ServingSpec, cluster: Cluster) -> dict[str, Any]:
    """One bundle a worker. A replica that fits into a host stays there: tensor parallelism across hosts is slow."""
    if not cluster.gpus:
        return {"bundle_per_worker": {"CPU": 1}, "strategy": "PACK"}
    per_host = max((node["gpus"] for node in cluster.state["nodes"]), default=0) if cluster.state else cluster.gpus
    strategy = "STRICT_PACK" if _world_size(spec) <= per_host else "PACK"
    return {"bundle_per_worker": {"GPU": 1, "CPU": 1}, "strategy": strategy}


def _runtime_env(cluster: Cluster) -> dict[str, Any]:
    """The job's own environment and what vLLM reads; nothing secret, the jobs API shows it."""
    inherited = dict(ray.get_runtime_context().runtime_env)
    variables = dict(inherited.get("env_vars", {})) | _passed_on("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
    variables |= {"VLLM_NO_USAGE_STATS": "1", "RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT": str(REQUEST_TIMEOUT)}
    if cluster.is_local:
        variables["PYTHONPATH"] = str(REPOSITORY)
    if not cluster.gpus:
        variables |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray reserves logical CPUs, not cores to bind to
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
        }
    hook = "orchestrator.secrets.load_into_environment"
    return inherited | {"env_vars": variables, "worker_process_setup_hook": hook}


def _passed_on(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _world_size(spec: ServingSpec) -> int:
    return spec.tensor_parallel_size * spec.pipeline_parallel_size


def _source(model: str) -> str:
    """Workers have another working directory, so a folder is given as an absolute path."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model


def _files(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a local model's files: a folder that was trained again is another model."""
    folder = Path(model).expanduser()
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


def _app_status(name: str) -> str | None:
    from ray import serve

    app = serve.status().applications.get(name)
    return str(app.status.value) if app else None


def _wait_running(name: str, deadline: float, spec: ServingSpec, progress: Progress) -> None:
    from ray import serve

    shown = ""
    while True:
        app = serve.status().applications.get(name)
        status = str(app.status.value) if app else "NOT_STARTED"
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY", "DELETING"):
            message = "; ".join(d.message for d in app.deployments.values() if d.message) if app else ""
            raise _failed(name, f"the deployment is {status}", message)
        if time.monotonic() > deadline:
            raise _failed(name, f"it is still {status} after startup_timeout={spec.startup_timeout:.0f} s", "")
        line = _progress_line(app)
        if line != shown:
            progress(line)
            shown = line
        time.sleep(POLL)


def _progress_line(app: Any) -> str:
    parts = [
        f"{name.removeprefix('LLMServer:')} {' '.join(f'{count} {state.lower()}' for state, count in states.items())}"
        for name, deployment in sorted((app.deployments if app else {}).items())
        if (states := {str(getattr(k, "value", k)): v for k, v in deployment.replica_states.items() if v})
    ]
    return "starting: " + (", ".join(parts) or "waiting for Serve")


def _failed(name: str, seen: str, message: str) -> EndpointDown:
    """The error to raise, with what the engine wrote last; the broken application is deleted."""
    from ray import serve

    log = "\n".join(meaningful_lines(engine_log(name)) + meaningful_lines(message))
    serve.delete(name)
    return EndpointDown(f"{name} did not start: {seen}. The end of the engine's log:\n{log}")


def _wait_first_token(endpoint: Endpoint, deadline: float, spec: ServingSpec) -> None:
    """Until `/v1/models` lists our id and a chat request brings a token, through the proxy as clients go."""
    while (seen := _try_first_token(endpoint)) is not None:
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
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def _take_lease(name: str) -> None:
    """An actor that lives as long as this job: others see by its name that the application is in use."""
    if name not in _leases:
        _leases[name] = (
            ray.remote(_Lease).options(num_cpus=0, name=f"kosen-lease-{name}-{uuid.uuid4().hex[:8]}").remote()
        )


def _other_leases(name: str) -> list[str]:
    prefix = f"kosen-lease-{name}-"
    return [found for found in ray.util.list_named_actors() if str(found).startswith(prefix)]


class _Lease:
    """Holds nothing but its own name."""
