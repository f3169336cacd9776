"""The prediction stage: each row's messages go to the endpoint, each final answer goes to the writer at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from orchestrator.batching import Outbox, gather_all, run_stage
from orchestrator.client import ChatClient, Outcome
from orchestrator.endpoint import Endpoint
from orchestrator.records import Key, Prediction


@dataclass(frozen=True)
class PredictConfig:
    """What every prediction actor needs."""

    writer: ActorHandle
    endpoint: Endpoint
    options: dict[str, Any]  # sampling and budget, as the endpoint's API names them
    request_timeout: float  # seconds for one attempt


def predict(config: PredictConfig, rows: Iterable[dict[str, Any]], *, total: int, window: int) -> int:
    """Ask all `rows` (`id, sample, messages, fingerprint, spec`); returns how many were asked.

    Raises EndpointDown when the endpoint is gone for good, StorageFailed when the records cannot be written.
    """
    return run_stage(PredictWorker, config, rows, total=total, window=window, rows_ahead=2 * window)


class PredictWorker:
    """One HTTP client and the rows that Ray Data gives it."""

    def __init__(self, config: PredictConfig, window: int) -> None:
        self._config = config
        self._client = ChatClient(config.endpoint, window=window, request_timeout=config.request_timeout)
        self._outbox = Outbox[Prediction](self._send)

    async def work(self, rows: list[dict[str, Any]]) -> None:
        by_key = {Key(row["id"], row["sample"]): row for row in rows}
        todo = await self._config.writer.still_open.remote(list(by_key))
        await gather_all(self._ask(by_key[Key(*key)]) for key in todo)

    async def _ask(self, row: dict[str, Any]) -> None:
        outcome = await self._client.ask(row["messages"], self._config.options)
        await self._outbox.put(_record(row, outcome, self._config.endpoint))

    async def _send(self, records: list[Prediction]) -> None:
        await self._config.writer.append_predictions.remote(records)


def _record(row: dict[str, Any], outcome: Outcome, endpoint: Endpoint) -> Prediction:
    return {
        "id": row["id"],
        "sample": row["sample"],
        "status": outcome.status,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "response": outcome.response,
        "reasoning": outcome.reasoning,
        "finish_reason": outcome.finish_reason,
        "usage": outcome.usage,
        "attempts": outcome.attempts,
        "started_at": outcome.started_at,
        "seconds": outcome.seconds,
        "model": endpoint.model,
        "endpoint": endpoint.base_url,
        "fingerprint": row["fingerprint"],
        "spec": row["spec"],
    }
