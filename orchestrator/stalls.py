"""Engines that stand still with requests in their hands: a hung GPU or network ends no process, so Serve sees nothing.

Such an engine is ended. Serve starts another one, and its requests are asked again elsewhere, as after any crash.
"""

from collections.abc import Mapping

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.engine_loads import Reading

STALLED = 600.0  # seconds without a token; a single long prompt on a CPU may take minutes, on a GPU seconds
FIND_SECONDS = 30


class Stalls:
    """Remembers when each replica last had nothing to do, or made a token."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._well: dict[str, float] = {}

    def observe(self, now: float, found: Mapping[str, Reading]) -> list[str]:
        """Replicas that have had requests for STALLED seconds and made no token meanwhile.

        Both vLLM and Serve must say that there are requests: vLLM renews its count only with a step.
        """
        for name, reading in found.items():
            idle = not reading.asked or not (reading.running or reading.waiting)
            if idle or self._tokens.get(name) != reading.tokens:
                self._well[name], self._tokens[name] = now, reading.tokens
        return [name for name in found if now - self._well[name] >= STALLED]

    def forgive(self, now: float, name: str) -> None:
        """It was ended; until Serve has noticed, it is not told of again."""
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
