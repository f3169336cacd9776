"""The prediction stage: each row's messages go to the endpoint, each final answer goes to the writer at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from orchestrator import secrets
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.records.pulse import Heart
from orchestrator.records.types import Key, Prediction, Provenance, Question
from orchestrator.stages.stage import Outbox, Pick, RowStore, gather_all, run_stage
from orchestrator.steering.follower import Follower


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What every prediction actor needs."""

    writer: ActorHandle
    build: Callable[[dict[str, Any]], Question]  # from a stored row to what is asked
    endpoint: Endpoint
    options: dict[str, Any]  # sampling and budget, as the endpoint's API names them
    request_timeout: float  # seconds for one attempt
    start: int  # requests in flight at first, over all actors; at our own engines also how many come at a time
    most: int  # and later; at our own engines the writer sets how many of them
    provenance: Provenance | None = None  # what each record says of how it was produced


def predict(config: PredictConfig, store: RowStore, picks: list[Pick], *, node: str | None = None) -> int:
    """Ask all `picks` of the stored rows; returns how many were asked.

    Raises EndpointDown when the endpoint is gone for good, StorageFailed when the records cannot be written.
    """
    return run_stage(PredictWorker, config, store, picks, total=len(picks), window=config.most, node=node)


class PredictWorker:
    """One HTTP client and the rows that Ray Data gives it."""

    def __init__(self, config: PredictConfig, window: int) -> None:
        self._config = config
        share = window / config.most
        start = math.ceil(share * config.start)
        self._client = ChatClient(config.endpoint, window=window, request_timeout=config.request_timeout, start=start)
        self._heart = Heart(config.writer, "predict", self._client)
        self._outbox = Outbox[Prediction](self._send)
        self._follower = Follower(config.writer, "predict", self._client, share=share, step=start)

    async def work(self, rows: list[dict[str, Any]]) -> None:
        async with self._heart.busy():
            await self._work(rows)

    async def _work(self, rows: list[dict[str, Any]]) -> None:
        secrets.remember(await self._config.writer.secrets.remote())
        if self._config.endpoint.serve_app:
            self._follower.start()
        by_key = {Key(row["id"], row["sample"]): row for row in rows}
        todo = await self._config.writer.still_open.remote(list(by_key))
        await gather_all(self._ask(by_key[Key(*key)]) for key in todo)

    async def _ask(self, row: dict[str, Any]) -> None:
        question = self._config.build(row)
        outcome = await self._client.ask(question.messages, self.options(row) | question.options)
        await self._outbox.put(self._record(question, outcome))

    def options(self, row: dict[str, Any]) -> dict[str, Any]:
        """Of one request; the same for all rows, unless a subclass knows better."""
        return self._config.options

    async def _send(self, records: list[Prediction]) -> None:
        await self._config.writer.append_predictions.remote(records)

    def _record(self, question: Question, outcome: RequestOutcome) -> Prediction:
        record = _record(question, outcome, self._config.endpoint)
        if self._config.provenance:
            record["provenance"] = self._config.provenance
        if outcome.system_fingerprint:
            record["system_fingerprint"] = outcome.system_fingerprint
        if outcome.adapted:
            record["adapted"] = list(outcome.adapted)
        return record


def _record(question: Question, outcome: RequestOutcome, endpoint: Endpoint) -> Prediction:
    wanted = question.wanted
    return {
        "id": wanted.id,
        "sample": wanted.sample,
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
        "fingerprint": wanted.fingerprint,
        "spec": wanted.spec,
        "prompt_sha256": question.prompt_sha256,
    }
