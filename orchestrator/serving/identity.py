"""Who gives the answers: the weights and the engine's options of a deployment, or what a server says of itself.

Two answers may stand in one score only if the same identity gave them. How many GPUs work, in which split and with how
many seats does not decide what a model says, and is not part of it.
"""

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from cluster.files import expanded, kosen_home
from orchestrator.endpoints.discovery import auth_headers, proxy_for
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import KosenError, SpecError
from orchestrator.files import write_atomic
from orchestrator.records.types import digest
from orchestrator.serving.options import engine_kwargs
from orchestrator.serving.spec import ServingSpec

PROBE_SECONDS = 5.0  # for a server's page about itself
READERS = 8  # files that are read at once: more than a disk or a network file system needs to be busy
SAID_FROM = 2**30  # bytes of weights from which reading them takes long enough to be reported
GENERATION_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")  # as vLLM takes

# Files beside a model that no engine reads.
_IDLE_NAMES = ("readme", "license", "notice", "kosen-merge.json", "training_args.bin")
_IDLE_ENDINGS = (".md", ".png", ".jpg", ".jpeg", ".gif", ".pdf", ".log", ".lock", ".tmp", ".incomplete")
# Options of vLLM's engine that say where and how fast it works, not what it says. All others decide.
_IDLE_OPTIONS = re.compile(
    r"""served_model_name | hf_token | max_model_len | enforce_eager | block_size | async_scheduling | stream_interval
    | (tensor|pipeline|data|decode_context|prefill_context)_parallel_ .* | master_ .* | nnodes | node_rank | numa_ .*
    | device_ids | (cpu_)?distributed_ .* | enable_expert_parallel | all2all_backend | expert_placement_ .*
    | enable_elastic_ep | (enable_)?eplb .* | enable_dbo | ubatch_size | dbo_ .* | dcp_ .* | cp_ .* | _api_process_ .*
    | max_num_ .* | long_prefill_ .* | (enable|disable)_chunked_ .* | scheduler_reserve_ .* | prefill_schedule_ .*
    | watermark | gpu_memory_utilization | kv_cache_memory_bytes | num_gpu_blocks_override | (kv_|cpu_)?offload .*
    | enable_prefix_caching | prefix_cach .* | mm_processor_cache_ .* | skip_mm_profiling | kv_transfer_config
    | download_dir | safetensors_ .* | max_parallel_loading_workers | use_tqdm_on_load | fully_sharded_loras
    | max_cpu_loras | (max_)?cudagraph_ .* | disable_custom_all_reduce | (dis|en)able_log .* | kv_cache_metrics .*
    | aggregate_engine_logging | otlp_ .* | collect_ .* | show_ .* | enable_layerwise_nvtx_tracing | enable_mfu_metrics
    | scheduling_policy | max_logprobs | api_server_count | (disable_)?uvicorn_ .* | ssl_ .* | allowed_ .* | root_path
    | profiler_config | kv_events_config | enable_sleep_mode | shutdown_timeout | ray_workers_use_nsight""",
    re.VERBOSE,
)
# Keys of our own `serving:` group of the same kind.
_IDLE_SERVING = frozenset({"parallelism", "replicas", "max_replicas", "startup_timeout", "engine_kwargs"})


class Model(TypedDict):
    """Which weights: of a folder the digest of its files, of the hub the commit; None where it cannot be known."""

    name: str
    revision: str | None
    digest: str | None


class Served(TypedDict):
    """What gives the answers. One of `engine` and `server` is None."""

    model: Model
    engine: dict[str, Any] | None  # of our deployment: vLLM's options that decide an answer
    server: dict[str, str | None] | None  # of an endpoint that others run: its address and what it says of itself


Progress = Callable[[str], None]


def of_deployment(model: str, spec: ServingSpec, gpus: int, *, progress: Progress) -> Served:
    """The identity of `model` as `spec` deploys it on vLLM; reads all of a local model's files once.

    Raises SpecError where options need a config that cannot be read.
    """
    options = engine_kwargs(model, spec, gpus)
    engine = {name: _with_content(value) for name, value in options.items() if decides(name)}
    return {
        "model": identify_model(model, options.get("revision"), progress=progress),
        "engine": engine,
        "server": None,
    }


def of_server(endpoint: Endpoint, before: Served | None = None) -> Served | None:
    """The identity of a server that others run; None if nothing answers there now.

    A page that fails this time, as busy servers' do, is taken to say what it said `before`.
    """
    try:
        told: dict[str, str | None] = {"base_url": endpoint.base_url, **_ask_about(endpoint)}
    except (OSError, HTTPException, ValueError, KosenError):
        return None
    known = before["server"] if before and before["server"] else {}
    told |= {name: known.get(name) for name, value in told.items() if value is None}
    return {"model": {"name": endpoint.model, "revision": None, "digest": None}, "engine": None, "server": told}


def deciding(served: Served) -> str:
    """A digest of what decides an answer: the same weights in another folder are the same model."""
    model: dict[str, str | None] = dict(served["model"])  # type: ignore[arg-type]
    if model["digest"]:
        del model["name"]
    return digest([model, served["engine"], served["server"]])


def decides(option: str) -> bool:
    """Whether an option of vLLM's engine can change what a model says; one that we do not know can."""
    return not _IDLE_OPTIONS.fullmatch(option)


def deciding_options(spec: ServingSpec) -> dict[str, Any]:
    """What a spec's `serving:` says of an answer, without reading the model."""
    values = spec.model_dump(mode="json", exclude=set(_IDLE_SERVING))
    return {name: value for name, value in (values | spec.engine_kwargs).items() if decides(name)}


def identify_model(model: str, revision: str | None, *, progress: Progress) -> Model:
    """The weights behind a folder or a name on the hub."""
    folder = expanded(model)
    if folder.is_dir():
        return {"name": model, "revision": None, "digest": folder_digest(folder, progress=progress)}
    return {"name": model, "revision": hub_commit(model, revision), "digest": None}


def folder_digest(folder: Path, *, progress: Progress) -> str:
    """32 hexadecimal digits over the names and contents of a model's files.

    Each file is read once: its SHA-256 is kept in ~/.kosen/digests.json under its place, size and times. `ctime` is
    among them, which cannot be set back.
    """
    files = sorted(path for path in folder.rglob("*") if _is_read(path.relative_to(folder)) and path.is_file())
    keys = {path: _stamp(path) for path in files}
    store = kosen_home() / "digests.json"
    known = _read_store(store)
    new = [path for path in files if keys[path] not in known]
    size = sum(path.stat().st_size for path in new)
    if size >= SAID_FROM:
        progress(f"reading {size / 2**30:.1f} GiB of {folder} once, to compute the digest of its weights")
    with ThreadPoolExecutor(READERS) as pool:
        known |= zip((keys[path] for path in new), pool.map(_sha256, new), strict=True)
    if new:
        write_atomic(store, json.dumps(known, indent=0))
    return digest([[str(path.relative_to(folder)), known[keys[path]]] for path in files])


def hub_commit(name: str, revision: str | None, kind: Literal["model", "dataset"] = "model") -> str | None:
    """The commit that `revision` (default: main) of a model or data set means: as the hub says, else as the cache."""
    import httpx  # what the hub's client is made of, and lets through when there is no network
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not constants.HF_HUB_OFFLINE:
        try:
            return huggingface_hub.HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=PROBE_SECONDS).sha
        except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, RuntimeError, ValueError):
            pass  # gated, no network, no such name: what is in the cache is what the engine will find
    folder = f"{kind}s--{name.replace('/', '--')}"
    try:
        return (Path(constants.HF_HUB_CACHE) / folder / "refs" / (revision or "main")).read_text().strip() or None
    except (OSError, ValueError):
        return revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else None


def generation_defaults(model: str, engine: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sampling that vLLM takes from the model's generation_config.json where a request does not say otherwise.

    `engine` has vLLM's options `generation_config` and `override_generation_config`. None where the file of a hub's
    model is not at hand.
    """
    source = engine.get("generation_config", "auto")
    values: Any = {}
    if source != "vllm":
        path = _generation_file(model if source in ("auto", None) else str(source), engine.get("revision"))
        if path is None:
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError):
            return None
    values = dict(values if isinstance(values, dict) else {}) | dict(engine.get("override_generation_config") or {})
    return {name: values[name] for name in GENERATION_KEYS if values.get(name) is not None}


def _generation_file(model: str, revision: str | None) -> Path | None:
    folder = expanded(model)
    if folder.is_dir():
        return folder / "generation_config.json"
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.try_to_load_from_cache(model, "generation_config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _with_content(value: Any) -> Any:
    """An option that names a file or a folder stands for what is in it: chat templates, adapters, drafts."""
    if isinstance(value, Mapping):
        return {str(name): _with_content(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_content(inner) for inner in value]
    if not isinstance(value, str) or not (os.sep in value or Path(value).suffix):  # "auto" may be a file here too
        return value
    try:
        path = expanded(value)
        if path.is_file():
            return {"content": _sha256(path)}
        if path.is_dir():
            return {"content": folder_digest(path, progress=lambda _: None)}
    except (OSError, SpecError):  # a text that cannot be a path, or what may not be read
        pass
    return value


def _is_read(path: Path) -> bool:
    """Whether an engine can read a file of a model's folder. `original/` holds the same weights for other programs."""
    if any(part.startswith(".") for part in path.parts) or path.parts[0] == "original":
        return False
    name = path.name.lower()
    return not name.startswith(_IDLE_NAMES) and not name.endswith(_IDLE_ENDINGS)


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_store(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _ask_about(endpoint: Endpoint) -> dict[str, str | None]:
    """Version and weights as a server reports them: vLLM's and Ollama's pages, vLLM's and SGLang's model list.

    A value is None where its page fails. Raises OSError if nothing answers at all.
    """
    address = urlsplit(endpoint.base_url)
    origin = f"{address.scheme}://{address.netloc}"
    models = _get(endpoint, f"{endpoint.base_url}/models")
    version = _get(endpoint, f"{origin}/api/version" if address.port == 11434 else f"{origin}/version")
    told: dict[str, str | None] = {"version": None if version is None else str(version.get("version") or "")}
    entries = models.get("data") if models is not None else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == endpoint.model and entry.get("root"):
            told["root"] = str(entry["root"])
    return told


def _get(endpoint: Endpoint, url: str) -> dict[str, Any] | None:
    """A page's JSON object, {} where there is no such page, None where it fails. Raises OSError if nothing listens."""
    proxy = proxy_for(endpoint)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}))
    request = urllib.request.Request(url, headers={"User-Agent": "kosen"})
    for name, value in auth_headers(endpoint).items():
        request.add_unredirected_header(name, value)
    try:
        with opener.open(request, timeout=PROBE_SECONDS) as response:
            body = json.loads(response.read(2**22))
    except urllib.error.HTTPError as error:
        return None if error.code == 429 or error.code >= 500 else {}
    except TimeoutError:
        return None
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
