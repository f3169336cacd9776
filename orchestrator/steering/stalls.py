"""Engines that make no progress on their requests: a hung GPU or network ends no process, so Serve sees nothing.

Such an engine is killed. Serve starts another one, and its requests are asked again elsewhere, as after any crash.

It has requests, as Serve's replica counts them, and generated no token. vLLM's own gauges are not used:
an engine that hangs renews none of them, and Ray drops those that are not renewed. Its counters Ray keeps.
"""

from collections.abc import Mapping

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.steering.engine_loads import Reading

# Seconds without a token. A single long prompt on a CPU may take minutes, on a GPU seconds; kernels that are compiled
# for the first time take a minute. Killing an engine costs all its requests, so this is long.
STALLED = 600.0
QUIET = 120.0  # seconds until it is reported
FIND_SECONDS = 30


class Stalls:
    """Remembers when each replica last had nothing to do, or made a token."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._well: dict[str, float] = {}
        self._reported: set[str] = set()

    def observe(self, now: float, asked: Mapping[str, int | None], found: Mapping[str, Reading]) -> dict[str, float]:
        """Seconds for which each replica that lives has had requests and made no token.

        `asked`: requests that Serve has given it and that have no answer yet; None where it does not say, as one that
        loads its model, or hangs itself. `found`: what the engines report. Where none of them ever reported, or a page
        is missing that was there before, their tokens are not known, and nothing is reported of them.
        """
        self._reported |= found.keys()
        for name, requests in asked.items():
            unknown = not self._reported or (name in self._reported and name not in found)
            tokens = found[name].tokens if name in found else 0
            idle = requests == 0 or (requests is None and name not in self._reported)
            if unknown or idle or self._tokens.get(name) != tokens:
                self._well[name], self._tokens[name] = now, tokens
        return {name: now - self._well[name] for name in asked}

    def forgive(self, now: float, name: str) -> None:
        """Resets the timer of an engine that was just killed, so that it is not reported twice."""
        self._well[name] = now


def end_engine(app: str, replica: str) -> None:
    """End the engine's processes; Serve notices and starts another. Nothing where the replica is gone already.

    Raises RayError where Ray does not say where it is, or its node cannot be reached.
    """
    from ray.util.state import list_actors
    from ray.util.state.exception import RayStateApiException

    address = ray.get_runtime_context().gcs_address
    filters = [("ray_namespace", "=", "serve"), ("state", "=", "ALIVE")]
    try:
        actors = list_actors(address, filters=filters, limit=10_000, timeout=FIND_SECONDS)
    except (RayStateApiException, ConnectionError) as error:
        raise RayError(f"Ray does not list its actors: {error}") from error
    for actor in actors:
        if (actor.name or "").startswith(f"SERVE_REPLICA::{app}#") and actor.name.endswith(f"#{replica}"):
            there = NodeAffinitySchedulingStrategy(actor.node_id, soft=False)
            ended = _end_children.options(scheduling_strategy=there).remote(actor.pid)
            ray.get(ended, timeout=FIND_SECONDS)


@ray.remote(num_cpus=0, max_retries=0)
def _end_children(pid: int) -> None:
    """A replica's children are its engine's processes; they may hang where only SIGKILL reaches them."""
    for child in psutil.Process(pid).children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
