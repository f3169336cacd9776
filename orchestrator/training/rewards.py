"""Reward functions for verl's PPO: a rule for GSM8K, exact match, a function of the user's, a model that judges.

verl loads them by name (`reward.custom_reward_function.path=pkg://orchestrator.training.rewards`) and calls them in its
reward workers with `data_source`, `solution_str`, `ground_truth` and `extra_info`, and what `reward_kwargs` holds. It
would swallow their exceptions and train on: so each failure is written into the run folder, where the trainer looks.
"""

import asyncio
import functools
import importlib.util
import inspect
import math
import re
import traceback
import unicodedata
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from orchestrator.client import ChatClient
from orchestrator.endpoint import Endpoint
from orchestrator.errors import EndpointDown, KosenError
from orchestrator.training.environment import training_folder
from orchestrator.training.folder import Failure, FailureKind, TrainingFolder, read_journal

Score = float | dict[str, Any]  # a dict has its number under "score"; the rest of it verl shows in validation
Reward = Callable[..., Awaitable[Score]]
SHOWN = 200  # characters of a solution in a message
ANSWER = re.compile(r"####\s*[^\d\s-]?\s*(-?[\d,]*\.?\d+)")  # `#### 1,234.5` or `#### $5`
VERDICT = re.compile(r"score\W{1,4}(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)
JUDGE_PROMPT = """\
Judge whether the response below answers the question correctly, given the correct answer. Compare the final answers
only, and accept small differences in notation.

Question: {question}

Response: {solution}

Correct answer: {ground_truth}

End with one line: `score: 1` if the response is correct, `score: 0` if it is not."""
MAX_ASKS = 3  # for a verdict that can be read
MAX_UNREADABLE = 20  # verdicts in a row, after which the judge is taken for broken


class RewardFailed(KosenError):
    """A reward function raised, or returned what is no reward."""


class NotFinite(ValueError):
    """A score that is NaN or infinite."""


async def gsm8k(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any) -> Score:
    """1 where the last `#### number` of the solution is the right one; thousands separators do not matter."""
    return await _guarded(_gsm8k, "gsm8k", __file__, data_source, solution_str, ground_truth, extra_info)


async def exact_match(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any
) -> Score:
    """1 where the solution is the right answer but for case, white space, width and a final full stop."""
    return await _guarded(_exact_match, "exact_match", __file__, data_source, solution_str, ground_truth, extra_info)


async def user_function(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    path: str,
    name: str = "compute_score",
    arguments: dict[str, Any] | None = None,
    **_: Any,
) -> Score:
    """Function `name` of the Python file `path`, of verl's own signature, sync or async, with `arguments` besides."""

    async def call(**given: Any) -> Any:
        function = _load(path, name)
        given |= _plain(arguments)
        if inspect.iscoroutinefunction(function):
            return await function(**given)
        return await asyncio.to_thread(function, **given)  # other solutions are scored meanwhile

    return await _guarded(call, name, path, data_source, solution_str, ground_truth, extra_info)


async def judge(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    base_url: str,
    model: str,
    api_key_env: str | None = None,
    prompt: str = JUDGE_PROMPT,
    options: dict[str, Any] | None = None,
    window: int = 32,
    request_timeout: float = 120.0,
    **_: Any,
) -> Score:
    """What a model at an OpenAI-compatible endpoint says, from 0 to 1. The prompt's words are `extra_info.question`,
    the solution and the right answer; its reply has a line `score: <number>`.

    The key is the secret named `api_key_env`. Each attempt has `request_timeout` seconds, each reward worker has
    `window` requests in flight; what is tried again, and how long, is `orchestrator.retry`'s to say. A solution whose
    verdict cannot be read three times has no reward: 0, with `judged` 0.
    """
    judging = _judge_of(base_url, model, api_key_env, window, request_timeout)

    async def call(solution_str: str, ground_truth: Any, extra_info: Any, **_: Any) -> Score:
        words = {"question": (extra_info or {}).get("question", ""), "solution": solution_str}
        return await judging.score(_fill(prompt, words | {"ground_truth": str(ground_truth)}), _plain(options))

    return await _guarded(call, "judge", base_url, data_source, solution_str, ground_truth, extra_info)


def final_number(text: str) -> Decimal | None:
    """The number after the last `####`."""
    found = ANSWER.findall(text)
    return _number(found[-1]) if found else None


def normalized(text: str) -> str:
    """For comparing answers: compatible forms, no case, single spaces, no final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".")


async def _gsm8k(solution_str: str, ground_truth: Any, **_: Any) -> Score:
    right = _number(str(ground_truth))
    if right is None:
        right = final_number(str(ground_truth))
    if right is None:
        raise ValueError(f"the right answer {ground_truth!r} is no number; expected one, as reward_model.ground_truth")
    return float(final_number(solution_str) == right)


async def _exact_match(solution_str: str, ground_truth: Any, **_: Any) -> Score:
    return float(normalized(solution_str) == normalized(str(ground_truth)))


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        return None


async def _guarded(
    function: Reward, name: str, file: str, data_source: str, solution_str: str, ground_truth: Any, extra_info: Any
) -> Score:
    """The score, after a look at it; a failure is in the run folder before it is raised."""
    about = f"for data_source {str(data_source)!r}, solution {_shortened(solution_str)}"
    try:
        score = await function(
            data_source=data_source, solution_str=solution_str, ground_truth=ground_truth, extra_info=extra_info
        )
        _check(score)
    except EndpointDown as error:
        raise _report("other", str(error)) from None
    except NotFinite as error:
        raise _report("nan", f"the reward function {name} of {file} returned {error} {about}") from None
    except Exception as error:
        what = f"{type(error).__name__}: {error}{_place(error, file)}"
        raise _report("reward", f"the reward function {name} of {file} raised {what} {about}") from error
    return score


def _check(score: Any) -> None:
    number = score["score"] if isinstance(score, dict) else score
    if isinstance(number, str) or not hasattr(number, "__float__"):
        raise TypeError(f"it returned {score!r}, expected a number, or a dict with a number under 'score'")
    if not math.isfinite(float(number)):
        raise NotFinite(repr(score))


def _report(kind: FailureKind, message: str) -> RewardFailed:
    folder = training_folder()
    if folder:
        folder.report_failure(Failure(kind, message, _step(folder)))
    return RewardFailed(message)


def _step(folder: TrainingFolder) -> int | None:
    """The step whose answers are being scored: the one after the journal's last."""
    lines = [line for line in read_journal(folder) if line["event"] in ("plan", "step")]
    return (lines[-1].get("step") or lines[-1].get("resumed_from") or 0) + 1 if lines else None


def _place(error: Exception, file: str) -> str:
    """Where in the user's own file it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" at line {lines[-1]}" if lines else ""


def _shortened(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}")


@functools.cache
def _load(path: str, name: str) -> Callable[..., Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; it must be on a disk that all nodes share")
    spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    if name not in functions:
        raise AttributeError(f"it has no function {name}; it has {', '.join(functions) or 'none'}")
    function: Callable[..., Any] = getattr(module, name)
    return function


class Judge:
    """One judge's client in this process."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._unreadable = 0

    async def score(self, prompt: str, options: dict[str, Any]) -> Score:
        reply: str | None = None
        for _ in range(MAX_ASKS):
            outcome = await self._client.ask([{"role": "user", "content": prompt}], options)
            reply = outcome.response or outcome.detail
            found = VERDICT.findall(outcome.response or "")
            if found:
                self._unreadable = 0
                return {"score": min(float(found[-1]), 1.0), "judged": 1.0}
            if outcome.status == "failed" and outcome.reason != "empty":
                break  # the client has tried again what is worth it
        self._unreadable += 1
        if self._unreadable >= MAX_UNREADABLE:
            raise ValueError(
                f"the judge gave no `score: <number>` for {self._unreadable} solutions in a row, but {reply!r}"
            )
        return {"score": 0.0, "judged": 0.0}


@functools.cache
def _judge_of(base_url: str, model: str, key_name: str | None, window: int, request_timeout: float) -> Judge:
    """A reward worker has one event loop, and so one client."""
    return Judge(
        ChatClient(Endpoint(base_url.rstrip("/"), model, key_name), window=window, request_timeout=request_timeout)
    )


def _plain(values: Any) -> dict[str, Any]:
    """verl hands on groups of its configuration as they are."""
    return cast(dict[str, Any], OmegaConf.to_container(values)) if OmegaConf.is_config(values) else dict(values or {})


def _fill(prompt: str, words: dict[str, str]) -> str:
    """Not str.format: prompts and solutions are full of braces."""
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), prompt)
