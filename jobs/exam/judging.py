"""The judge stage: it follows the writer and judges each answer as soon as that is recorded."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.actor import ActorHandle

from jobs.exam.requests import item_of, reference_digest
from jobs.exam.retired import retirement
from jobs.exam.spec import ExamSpec, budget_option, judge_format, judge_sampling, load_judge_prompt
from jobs.tasks.task import Item, JudgeFormat, Task, TurnJudgeFormat, Verdict
from orchestrator import secrets
from orchestrator.asking.adapting import dropped
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.console import say
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.endpoints.refusals import one_line
from orchestrator.errors import EndpointDown, JudgeUnavailable
from orchestrator.records.pulse import Heart
from orchestrator.records.types import JudgeIdentity, Judgement, Key, Prediction, Provenance, Usage, prediction_digest
from orchestrator.records.writer import Judges
from orchestrator.spec import Provider
from orchestrator.stages.stage import Outbox, Pick, RowStore, run_stage
from orchestrator.steering.follower import Follower

FIRST_BUDGET = 4096  # tokens for a verdict, as the official code of HLE gives
RULE_WINDOW = 512
MAX_ASKS = 3  # requests for a verdict that can be read; with two doublings the last one has 16,384 tokens
JUDGE_TIMEOUT = 600.0  # seconds for one verdict
WAITING_ROWS = 8192  # answers awaited at once; a slow one must not hold up those behind it
PREFLIGHT_TIMEOUT = 90.0  # seconds for one attempt at the trial verdict
PREFLIGHT_PATIENCE = 10.0  # seconds that it may be gone; it costs nothing yet to say so
PREFLIGHT_LIMIT = 300.0  # seconds for all attempts: a rate limit would be waited out for half an hour
SHOWN = 200  # characters of a reply that a message quotes

ALTERNATIVES = "judge=rule needs no model; judge=NAME judge_base_url=URL takes any OpenAI-compatible server; "
ALTERNATIVES += "judge=PATH judge_provider=vllm deploys one on this cluster"


@dataclass(frozen=True)
class AskedJudge:
    """A model that judges: where it answers, how it is asked, and the options that its server takes.

    `adapted` lists what the trial verdict found it to refuse, which is left out of `options`.
    """

    endpoint: Endpoint
    provider: Provider
    form: JudgeFormat
    template: str
    options: dict[str, Any]
    adapted: tuple[str, ...] = ()

    def without(self, *options: str) -> "AskedJudge":
        """The same judge, to be asked without these options."""
        left = {name: value for name, value in self.options.items() if name not in options}
        return replace(self, options=left, adapted=(*self.adapted, *map(dropped, options)))


@dataclass(frozen=True)
class JudgeConfig:
    """What every judging actor needs. Without `asked` the rule judges."""

    writer: ActorHandle
    task: Task
    identity: JudgeIdentity
    judges: Judges  # whose verdicts count as this one's
    provenance: Provenance
    asked: AskedJudge | None = None
    start: int = RULE_WINDOW  # verdicts asked for at once, and
    most: int = RULE_WINDOW  # later, as of predictions


def preflight(spec: ExamSpec, endpoint: Endpoint) -> AskedJudge:
    """One cheap verdict from the judge, on the task's trial, such as "2 + 2 is 4".

    Raises JudgeUnavailable before anything costly starts. The call itself is the test, whatever models the server
    lists. One that does not know JSON schemas is asked without, also where its refusal does not say why; the reader
    finds the verdict in its words. A judge gets as many tries as with a real answer; one that then has given no verdict
    that can be read will give none later, and ends the run here. One that says "no" is only reported.
    """
    form, (template, _) = judge_format(spec), load_judge_prompt(spec)
    options = judge_sampling(spec)
    if form.schema:
        options["response_format"] = {"type": "json_schema", "json_schema": form.schema}
    asked = AskedJudge(endpoint, spec.judge_kind, form, template, options)
    try:
        verdict, asked, last = asyncio.run(asyncio.wait_for(_try(asked), PREFLIGHT_LIMIT))
    except TimeoutError:
        raise JudgeUnavailable(_complaint(spec, endpoint, f"none within {PREFLIGHT_LIMIT:.0f} s")) from None
    except EndpointDown as error:
        raise JudgeUnavailable(_complaint(spec, endpoint, str(error))) from None
    if verdict is None and last.status == "truncated" and form.has_verdict(_reply_of(last)):
        say(f"judge={spec.judge}: {_told(last)}, behind its verdict; what ends so stays unjudged")
        return asked
    if verdict is None:
        raise JudgeUnavailable(_complaint(spec, endpoint, _told(last)))
    if dropped("response_format") in asked.adapted:
        say(f"judge={spec.judge} does not take a JSON schema: its verdicts are read from its text")
    if verdict.verdict == "no":
        reasoning = one_line(verdict.reasoning)[:SHOWN]
        question, answer = form.trial[0].question, form.trial[0].answer
        say(f"judge={spec.judge} calls {answer} a wrong answer to {question!r}: {reasoning!r}. Is it fit to judge?")
    return asked


async def _try(asked: AskedJudge) -> tuple[Verdict | None, AskedJudge, RequestOutcome]:
    """The verdict on the trial answer, how the judge gave it, and its last reply. Raises EndpointDown."""
    endpoint = asked.endpoint
    if endpoint.key_name and endpoint.api_key() is None:
        raise EndpointDown(f"{endpoint.key_name} is not set. Export it, or write it into {secrets.secrets_file()}")
    client = ChatClient(endpoint, window=1, request_timeout=PREFLIGHT_TIMEOUT, patience=PREFLIGHT_PATIENCE)
    try:
        item, response = asked.form.trial
        verdict, outcomes = await _ask_judge(client, asked, item, [response])
        asked = asked.without(*(name for name in asked.options if dropped(name) in outcomes[-1].adapted))
        if verdict is None and outcomes[-1].reason in ("4xx", "5xx") and "response_format" in asked.options:
            asked = asked.without("response_format")
            verdict, outcomes = await _ask_judge(client, asked, item, [response])
    finally:
        await client.close()
    return verdict, asked, outcomes[-1]


def _complaint(spec: ExamSpec, endpoint: Endpoint, told: str) -> str:
    retired = f" ({when})" if (when := retirement(spec.judge)) else ""
    return f"judge={spec.judge}{retired} gives no verdict at {endpoint.base_url}: {told}. {ALTERNATIVES}"


def _told(outcome: RequestOutcome) -> str:
    """What a judge's last reply was, in a line."""
    said = _reply_of(outcome) or outcome.reasoning or ""
    if said:
        shown = one_line(said)[:SHOWN]
        cut = "was cut off" if outcome.status == "truncated" else "cannot be read as a verdict"
        return f"what it replies to a trial question {cut} ({shown!r})"
    return outcome.detail or f"{outcome.reason}"


def _reply_of(outcome: RequestOutcome) -> str:
    """A judge's reply; some servers put the whole of it into the thought and leave the answer empty."""
    return outcome.response or (outcome.reasoning if outcome.reason == "empty" else None) or ""


async def _ask_judge(
    client: ChatClient, asked: AskedJudge, item: Item, responses: Sequence[str]
) -> tuple[Verdict | None, list[RequestOutcome]]:
    """The verdict on an answer, and all that came: one request where the format asks for one, else one for each turn.

    An answer with a turn that has no verdict has none.
    """
    form = asked.form
    if not isinstance(form, TurnJudgeFormat):
        return await _ask_once(client, asked, item, responses)
    verdicts: list[Verdict] = []
    outcomes: list[RequestOutcome] = []
    for turn in range(1, len(responses) + 1):
        verdict, came = await _ask_once(client, asked, item, responses[:turn])
        outcomes += came
        if verdict is None:
            return None, outcomes
        verdicts.append(verdict)
    return form.combine(item, responses, verdicts), outcomes


async def _ask_once(
    client: ChatClient, asked: AskedJudge, item: Item, responses: Sequence[str]
) -> tuple[Verdict | None, list[RequestOutcome]]:
    """Ask until a verdict can be read, with a doubled budget after one that was cut off; and all that came."""
    messages = asked.form.messages(item, responses, asked.template)
    outcomes: list[RequestOutcome] = []
    budget = FIRST_BUDGET
    for _ in range(MAX_ASKS):
        outcome = await client.ask(messages, asked.options | budget_option(asked.provider, budget))
        outcomes.append(outcome)
        if verdict := _read(asked.form, outcome):
            return verdict, outcomes
        if outcome.status == "truncated":
            budget *= 2
        elif outcome.status == "failed" and outcome.reason != "empty":
            break
    return None, outcomes


def _read(form: JudgeFormat, outcome: RequestOutcome) -> Verdict | None:
    if outcome.status != "ok" and outcome.reason != "empty":
        return None
    return form.parse(_reply_of(outcome), outcome.reasoning or "" if outcome.response else "")


def judge(config: JudgeConfig, store: RowStore, picks: Iterable[Pick], *, total: int, node: str | None = None) -> int:
    """Judge every picked answer that this judge has not judged yet; returns the number of answers seen."""
    most, ahead = config.most, WAITING_ROWS
    return run_stage(JudgeWorker, config, store, picks, total=total, window=most, least_ahead=ahead, node=node)


class JudgeWorker:
    """Waits at the writer for the answers to its rows and judges them as they come."""

    def __init__(self, config: JudgeConfig, window: int) -> None:
        self._config = config
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
                ready = await self._config.writer.take_predicted.remote(list(waiting), self._config.judges)
                tasks += self._start(waiting, ready)
                for task in tasks:
                    if task.done():
                        task.result()  # a judge that is gone stops the stage now, not after the last prediction
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
            # In a thread: a rule may wait for a process of its own, and this actor must send signs of life meanwhile.
            response = prediction["response"] or ""
            verdict: Verdict | None = await asyncio.to_thread(self._config.task.score, item, [response])
            trail = _Trail(())
        else:
            verdict, trail = await self._ask(item, prediction["response"] or "")
        record = _record(prediction, verdict, trail, self._config.identity)
        record["reference"], record["provenance"] = reference_digest(item), self._config.provenance
        if trail.adapted:
            record["adapted"] = trail.adapted
        if verdict and verdict.scores:
            record["scores"] = dict(verdict.scores)
        await self._outbox.put(record)

    async def _ask(self, item: Item, response: str) -> tuple[Verdict | None, "_Trail"]:
        assert self._client and self._asked
        verdict, outcomes = await _ask_judge(self._client, self._asked, item, [response])
        trail = _Trail(self._asked.adapted)
        for outcome in outcomes:
            trail.add(outcome)
        return verdict, trail

    async def _send(self, records: list[Judgement]) -> None:
        await self._config.writer.append_judgements.remote(records)


class _Trail:
    """What all calls for one verdict cost, how they differed from what was asked, and why the last one gave none."""

    def __init__(self, adapted: Iterable[str]) -> None:
        self.adapted = list(adapted)
        self.attempts = 0
        self.reason: str | None = None
        self.usage: Usage | None = None

    def add(self, outcome: RequestOutcome) -> None:
        self.attempts += outcome.attempts
        self.adapted += [change for change in outcome.adapted if change not in self.adapted]
        self.reason = outcome.reason or "malformed"
        if outcome.usage:
            before = self.usage or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            self.usage = {
                "prompt_tokens": before["prompt_tokens"] + outcome.usage["prompt_tokens"],
                "completion_tokens": before["completion_tokens"] + outcome.usage["completion_tokens"],
                "total_tokens": before["total_tokens"] + outcome.usage["total_tokens"],
            }


def _record(prediction: Prediction, verdict: Verdict | None, trail: _Trail, identity: JudgeIdentity) -> Judgement:
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
