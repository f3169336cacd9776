"""Reward functions for verl's PPO: a function of a file or a module, or a model that judges.

verl loads them by name (`reward.custom_reward_function.path`; see training/config/ppo_config.py) and calls them in
its reward workers with `data_source`, `solution_str`, `ground_truth` and `extra_info`, and what `reward_kwargs`
holds. It would swallow their exceptions and train on: so each failure is written into the run folder, where the
trainer looks.
"""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import re
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from omegaconf import OmegaConf

from orchestrator.asking.client import ChatClient
from orchestrator.endpoints.endpoint import Endpoint, api_address
from orchestrator.errors import EndpointDown, KosenError, SpecError
from orchestrator.training.environment import training_folder
from orchestrator.training.folder import Failure, FailureKind, TrainingFolder, read_journal
from orchestrator.training.trainer.verdict import read_score

Score = float | dict[str, Any]  # a dict has its number under "score"; the rest of it verl shows in validation
Reward = Callable[..., Awaitable[Score]]
SHOWN = 200  # characters of a solution in a message
LOADING = threading.Lock()
ENDS = (SystemExit, KeyboardInterrupt, StopIteration)  # no errors to asyncio
PACKAGE = "pkg://"  # before a module's name, as verl has it
JUDGE_PROMPT = """\
Judge whether the response below answers the question correctly, given the correct answer. Compare the final answers
only, and accept small differences in notation.

Question: {question}

Response: {solution}

Correct answer: {ground_truth}

End with one line: `score: 1` if the response is correct, `score: 0` if it is not."""
MAX_ASKS = 3  # requests for a verdict that can be read
MAX_UNREADABLE = 20  # verdicts in a row, after which the judge is taken for broken


class RewardFailed(KosenError):
    """A reward function raised, or returned what is not a reward."""


class NotFinite(ValueError):
    """A score that is NaN or infinite."""


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
    """Function `name` of the Python file or `pkg://module` `path`, of verl's own signature, sync or async, with
    `arguments` besides."""

    async def call(**given: Any) -> Any:
        # In a thread: other solutions are scored meanwhile.
        found = await asyncio.to_thread(_call, path, name, given | _plain(arguments))
        try:
            return await found if inspect.isawaitable(found) else found
        except ENDS as error:
            raise _named(error) from None

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
    `window` requests in flight; `orchestrator.asking.retry` decides what is retried, and how long. A solution whose
    verdict cannot be read three times has no reward: 0, with `judged` 0.
    """
    try:
        judging = _judge_of(api_address(base_url), model, api_key_env, window, request_timeout)
    except SpecError as error:
        raise _report("other", str(error)) from None

    async def call(solution_str: str, ground_truth: Any, extra_info: Any, **_: Any) -> Score:
        words = {"question": (extra_info or {}).get("question", ""), "solution": solution_str}
        return await judging.score(_fill(prompt, words | {"ground_truth": str(ground_truth)}), _plain(options))

    return await _guarded(call, "judge", base_url, data_source, solution_str, ground_truth, extra_info)


async def _guarded(
    function: Reward, name: str, file: str, data_source: str, solution_str: str, ground_truth: Any, extra_info: Any
) -> Score:
    """The score, once checked; a failure is in the run folder before it is raised."""
    about = f"for data_source {str(data_source)!r}, solution {_shortened(solution_str)}"
    try:
        score = await function(
            data_source=data_source, solution_str=solution_str, ground_truth=ground_truth, extra_info=extra_info
        )
        score = _checked(score)
    except EndpointDown as error:
        raise _report("other", str(error)) from None
    except NotFinite as error:
        raise _report("nan", f"the reward function {name} of {file} returned {error} {about}") from None
    except Exception as error:
        what = f"{type(error).__name__}: {error}{_place(error, file)}"
        raise _report("reward", f"the reward function {name} of {file} raised {what} {about}") from error
    return score


def _checked(score: Any) -> Score:
    """The score as a number that verl can store, and what goes with it. Raises where it is not one."""
    number = score["score"] if isinstance(score, dict) else score
    if isinstance(number, str) or not hasattr(number, "__float__"):
        raise TypeError(f"it returned {score!r}, expected a number, or a dict with a number under 'score'")
    if not math.isfinite(float(number)):
        raise NotFinite(repr(score))
    if not isinstance(number, int | float):
        number = float(number)  # numpy's, torch's, a Decimal
    return score | {"score": number} if isinstance(score, dict) else number


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


def _call(path: str, name: str, given: dict[str, Any]) -> Any:
    """What the function returns: a score, or one to await."""
    try:
        with LOADING:  # by one thread, as the file's own state is one
            function = _load(path, name)
        return function(**given)
    except ENDS as error:
        raise _named(error) from None


def _named(error: BaseException) -> RuntimeError:
    """What would end the worker, or leave its event loop waiting for ever, as an ordinary error of the same place."""
    return RuntimeError(f"{type(error).__name__} {error}".strip()).with_traceback(error.__traceback__)


@functools.cache
def _load(path: str, name: str) -> Callable[..., Any]:
    module = importlib.import_module(path.removeprefix(PACKAGE)) if path.startswith(PACKAGE) else _load_file(path)
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    if name not in functions:
        raise AttributeError(f"it has no function {name}; it has {', '.join(functions) or 'none'}")
    function: Callable[..., Any] = getattr(module, name)
    return function


def _load_file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; it must be on a disk that all nodes share")
    spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
            score = read_score(outcome.response or "")
            if score is not None:
                self._unreadable = 0
                return {"score": score, "judged": 1.0}
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
    return Judge(ChatClient(Endpoint(base_url, model, key_name), window=window, request_timeout=request_timeout))


def _plain(values: Any) -> dict[str, Any]:
    """verl hands on groups of its configuration as they are."""
    return cast(dict[str, Any], OmegaConf.to_container(values)) if OmegaConf.is_config(values) else dict(values or {})


def _fill(prompt: str, words: dict[str, str]) -> str:
    """Not str.format: prompts and solutions are full of braces."""
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), prompt)
