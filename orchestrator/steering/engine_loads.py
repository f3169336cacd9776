"""What the engines of an application report: vLLM's and Serve's gauges, as Ray shows them on a page of each node."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayError

from cluster.dashboard import DIRECT

PAGE_SECONDS = 5.0  # for one node's page; one that takes longer is left out this time
PAGES_AT_ONCE = 16
ASK_SECONDS = 5.0
_RUNNING = "ray_vllm_num_requests_running"
_WAITING = "ray_vllm_num_requests_waiting"
_KV_USE = "ray_vllm_kv_cache_usage_perc"
_PREEMPTIONS = "ray_vllm_num_preemptions_total"
_PROMPTS = "ray_vllm_prompt_tokens_total"
_TOKENS = "ray_vllm_generation_tokens_total"
_FINISHED = "ray_vllm_request_success_total"  # one line for each reason
_ASKED = "ray_serve_replica_processing_queries"
_NAMES = (_RUNNING, _WAITING, _KV_USE, _PREEMPTIONS, _PROMPTS, _TOKENS, _FINISHED, _ASKED)


@dataclass(slots=True)
class Reading:
    """One replica's numbers, those of its engines added up where it has several (data parallel ranks)."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0  # of the fullest, 0 to 1
    preemptions: int = 0  # since the replica's start
    tokens: int = 0  # of answers, since the replica's start
    asked: int = 0  # requests that Serve has given it and that have no answer yet
    prompts: int = 0  # tokens of prompts, since the replica's start
    finished: int = 0  # requests, since the replica's start


def live_replicas(app: str) -> set[str]:
    """Ids of the application's engine replicas whose actors live; one that is still loading its model is among them."""
    return {_id_of(name) for name in _replica_actors(app)}


def asked_of(app: str) -> dict[str, int | None]:
    """Requests that each replica has been given and has not answered, by its own count, which Serve's router asks too.

    None for a replica that does not say within ASK_SECONDS: it loads its model, hangs, or ends just now.
    """
    pending = {name: one for name in _replica_actors(app) if (one := _count(name))}
    if not pending:
        return {}
    ready, _ = ray.wait(list(pending.values()), num_returns=len(pending), timeout=ASK_SECONDS)
    return {_id_of(name): _value(one) if one in ready else None for name, one in pending.items()}


def _count(actor: str) -> ray.ObjectRef | None:
    try:
        counting: ray.ObjectRef = ray.get_actor(actor, namespace="serve").get_num_ongoing_requests.remote()
        return counting
    except ValueError:  # gone since it was listed
        return None


def _value(ready: ray.ObjectRef) -> int | None:
    try:
        return int(ray.get(ready))
    except RayError:  # it has just ended
        return None


def _replica_actors(app: str) -> list[str]:
    prefix = f"SERVE_REPLICA::{app}#LLMServer"
    names = (str(actor["name"]) for actor in ray.util.list_named_actors(all_namespaces=True))
    return [name for name in names if name.startswith(prefix)]


def _id_of(actor: str) -> str:
    return actor.rpartition("#")[2]


def read_pages() -> list[str]:
    """The metrics of all nodes that live and answer."""
    urls = [f"http://{_host(node)}:{node['MetricsExportPort']}/metrics" for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(min(PAGES_AT_ONCE, max(1, len(urls)))) as pool:
        return [page for page in pool.map(_fetch, urls) if page]


def readings(pages: Iterable[str]) -> dict[str, Reading]:
    """From the nodes' pages to the last report of each replica, by its id; those of all applications are in it."""
    found: dict[str, Reading] = {}
    for page in pages:
        for name, replica, value in _samples(page):
            reading = found.setdefault(replica, Reading())
            if name == _RUNNING:
                reading.running += int(value)
            elif name == _WAITING:
                reading.waiting += int(value)
            elif name == _KV_USE:
                reading.kv_usage = max(reading.kv_usage, value)
            elif name == _PREEMPTIONS:
                reading.preemptions += int(value)
            elif name == _TOKENS:
                reading.tokens += int(value)
            elif name == _PROMPTS:
                reading.prompts += int(value)
            elif name == _FINISHED:
                reading.finished += int(value)
            else:
                reading.asked += int(value)
    return found


def _samples(page: str) -> Iterator[tuple[str, str, float]]:
    """Metric, replica and value. A page has thousands of lines, so only those that count are parsed."""
    lines = "\n".join(line for line in page.splitlines() if line.startswith(_NAMES))
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            replica = sample.labels.get("ReplicaId") or sample.labels.get("replica")  # as vLLM and as Serve name it
            if sample.name in _NAMES and replica:
                yield sample.name, replica, sample.value


def _host(node: dict[str, str]) -> str:
    address = node["NodeManagerAddress"]
    return f"[{address}]" if ":" in address else address


def _fetch(url: str) -> str | None:
    try:
        with DIRECT.open(url, timeout=PAGE_SECONDS) as response:
            return str(response.read().decode(errors="replace"))
    except OSError:  # a node that dies has no page
        return None
