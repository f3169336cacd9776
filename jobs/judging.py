"""The judge stage: it follows the writer and judges each answer as soon as that is recorded."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from jobs.exam import ExamSpec, budget_option, item_of, judge_sampling, load_judge_prompt
from jobs.tasks import hle
from orchestrator import secrets
from orchestrator.batching import Outbox, Pick, RowStore, run_stage
from orchestrator.client import ChatClient, Outcome
from orchestrator.endpoint import Endpoint
from orchestrator.errors import EndpointDown, JudgeUnavailable
from orchestrator.following import Follower
from orchestrator.progress import say
from orchestrator.pulse import Heart
from orchestrator.records import JudgeIdentity, Judgement, Key, Prediction, Usage, digest, prediction_digest
from orchestrator.spec import Provider

FIRST_BUDGET = 4096  # tokens for a verdict, as HLE gives
RULE_WINDOW = 512
MAX_ASKS = 3  # for a verdict that can be read; with two doublings the last one has 16,384 tokens
JUDGE_TIMEOUT = 600.0  # seconds for one verdict
WAITING_ROWS = 8192  # answers awaited at once; a slow one must not hold up those behind it
PREFLIGHT_TIMEOUT = 60.0

RETIRED = {
    "o3-mini-2025-01-31": "OpenAI switched it off on 2026-10-23",
    "gpt-4o-2024-08-06": "OpenAI switches it off on 2027-01-14",
}
SCHEMA = {"name": "verdict", "strict": True, "schema": hle.VERDICT_SCHEMA}
ALTERNATIVES = "judge=rule needs no model; judge=NAME judge_base_url=URL takes any OpenAI-compatible server; "
ALTERNATIVES += "judge=PATH judge_provider=vllm deploys one on this cluster"


@dataclass(frozen=True)
class AskedJudge:
    """A model that judges: where it answers, how it is asked, and the options that its server takes."""

    endpoint: Endpoint
    provider: Provider
    template: str
    options: dict[str, Any]


@dataclass(frozen=True)
class JudgeConfig:
    """What every judging actor needs. Without `asked` the rule judges."""

    writer: ActorHandle
    identity: JudgeIdentity
    asked: AskedJudge | None = None
    start: int = RULE_WINDOW  # verdicts asked for at once, and
    most: int = RULE_WINDOW  # later, as of predictions


def preflight(spec: ExamSpec, endpoint: Endpoint) -> AskedJudge:
    """One cheap verdict from the judge. Raises JudgeUnavailable, naming `judge=`, before anything costly starts.

    The call itself is the test, whatever models the server lists. One that does not know JSON schemas is asked without;
    the parser finds the verdict in its words.
    """
    import openai  # a second of imports that the judging actors need not wait for

    template, _ = load_judge_prompt(spec)
    with_schema = judge_sampling(spec) | {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}
    try:
        try:
            _ask_once(spec, endpoint, template, with_schema)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            _ask_once(spec, endpoint, template, judge_sampling(spec))
            with_schema.pop("response_format")
            say(f"judge={spec.judge} does not take a JSON schema: its verdicts are read from its text")
    except (EndpointDown, openai.OpenAIError) as error:
        told = error.message if isinstance(error, openai.APIStatusError) else str(error.__cause__ or error)
        retired = f" ({RETIRED[spec.judge]})" if spec.judge in RETIRED else ""
        raise JudgeUnavailable(
            f"judge={spec.judge}{retired} gives no verdict at {endpoint.base_url}: {told}. {ALTERNATIVES}"
        ) from None
    return AskedJudge(endpoint, spec.judge_kind, template, with_schema)


def _ask_once(spec: ExamSpec, endpoint: Endpoint, template: str, options: dict[str, Any]) -> None:
    from orchestrator.discovery import client

    item = hle.Item("preflight", "What is 2 + 2?", "4", "exactMatch", "Math")
    reply = client(endpoint, PREFLIGHT_TIMEOUT).chat.completions.create(
        model=endpoint.model,
        messages=hle.judge_messages(item, "Answer: 4\nConfidence: 90%", template),  # type: ignore[arg-type]
        extra_body=options if spec.judge_kind == "vllm" else options | budget_option(spec.judge_kind, FIRST_BUDGET),
    )
    choices = getattr(reply, "choices", None)  # a page of HTML comes as a str
    if not choices:
        raise EndpointDown(f"its answer is no chat completion ({str(reply)[:80]!r})")
    if hle.parse_verdict(choices[0].message.content or "") is None:
        say(f"judge={spec.judge} gave no readable verdict on a trial question; such answers stay unjudged")


def judge(config: JudgeConfig, store: RowStore, picks: Iterable[Pick], *, total: int, node: str | None = None) -> int:
    """Judge every picked answer that this judge has not judged yet; returns the number of answers seen."""
    most, ahead = config.most, WAITING_ROWS
    return run_stage(JudgeWorker, config, store, picks, total=total, window=most, least_ahead=ahead, node=node)


class JudgeWorker:
    """Waits at the writer for the answers to its rows and judges them as they come."""

    def __init__(self, config: JudgeConfig, window: int) -> None:
        self._config = config
        self._digest = digest(config.identity)
        self._outbox = Outbox[Judgement](self._send)
        self._asked = config.asked
        self._client: ChatClient | None = None
        self._follower: Follower | None = None
        if asked := config.asked:
            share = window / config.most
            start = math.ceil(share * config.start)
            self._client = ChatClient(asked.endpoint, window=window, request_timeout=JUDGE_TIMEOUT, start=start)
            if asked.endpoint.serve_app:
                self._follower = Follower(config.writer, "judge", self._client, share=share, step=start)
        self._heart = Heart(config.writer, "judge", self._client)

    async def work(self, rows: list[dict[str, Any]]) -> None:
        async with self._heart.busy():
            await self._work(rows)

    async def _work(self, rows: list[dict[str, Any]]) -> None:
        secrets.remember(await self._config.writer.secrets.remote())
        if self._follower:
            self._follower.start()
        waiting = {Key(row["id"], row["sample"]): row for row in rows}
        tasks: list[asyncio.Task[None]] = []
        try:
            while waiting:
                ready = await self._config.writer.take_predicted.remote(list(waiting), self._digest)
                tasks += self._start(waiting, ready)
                for task in tasks:
                    if task.done():
                        task.result()  # a judge that is gone ends the stage now, not after the last prediction
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _start(
        self, waiting: dict[Key, dict[str, Any]], ready: Mapping[Key, Prediction | None]
    ) -> list[asyncio.Task[None]]:
        pairs = [(waiting.pop(Key(*key)), prediction) for key, prediction in ready.items()]
        return [asyncio.create_task(self._judge(row, prediction)) for row, prediction in pairs if prediction]

    async def _judge(self, row: dict[str, Any], prediction: Prediction) -> None:
        item = item_of(row)
        if self._client is None:
            verdict: hle.Verdict | None = hle.rule_verdict(item, prediction["response"] or "")
            trail = _Trail()
        else:
            verdict, trail = await self._ask(item, prediction["response"] or "")
        await self._outbox.put(_record(prediction, verdict, trail, self._config.identity))

    async def _ask(self, item: hle.Item, response: str) -> tuple[hle.Verdict | None, "_Trail"]:
        """Ask until a verdict can be read, with a doubled budget after one that was cut off."""
        assert self._client and self._asked
        messages = hle.judge_messages(item, response, self._asked.template)
        trail = _Trail()
        budget = FIRST_BUDGET
        for _ in range(MAX_ASKS):
            options = self._asked.options | budget_option(self._asked.provider, budget)
            outcome = await self._client.ask(messages, options)
            trail.add(outcome)
            verdict = hle.parse_verdict(outcome.response or "") if outcome.status == "ok" else None
            if verdict:
                return verdict, trail
            if outcome.status == "truncated":
                budget *= 2
            elif outcome.status == "failed" and outcome.reason != "empty":
                break
        return None, trail

    async def _send(self, records: list[Judgement]) -> None:
        await self._config.writer.append_judgements.remote(records)


class _Trail:
    """What all calls for one verdict cost, and why the last one gave none."""

    def __init__(self) -> None:
        self.attempts = 0
        self.reason: str | None = None
        self.usage: Usage | None = None

    def add(self, outcome: Outcome) -> None:
        self.attempts += outcome.attempts
        self.reason = outcome.reason or "malformed"
        if outcome.usage:
            before = self.usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            self.usage = {
                "prompt_tokens": before["prompt_tokens"] + outcome.usage["prompt_tokens"],
                "completion_tokens": before["completion_tokens"] + outcome.usage["completion_tokens"],
                "total_tokens": before["total_tokens"] + outcome.usage["total_tokens"],
            }


def _record(prediction: Prediction, verdict: hle.Verdict | None, trail: _Trail, identity: JudgeIdentity) -> Judgement:
    return {
        "id": prediction["id"],
        "sample": prediction["sample"],
        "prediction": prediction_digest(prediction),
        "verdict": verdict.verdict if verdict else "unjudged",
        "reason": None if verdict else trail.reason,
        "extracted_answer": verdict.extracted_answer if verdict else None,
        "reasoning": verdict.reasoning if verdict else None,
        "confidence": verdict.confidence if verdict else None,
        "judge": identity,
        "usage": trail.usage,
        "attempts": trail.attempts,
    }
