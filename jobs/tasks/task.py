"""Defines what an exam is to the code that runs it: `jobs.exam` asks, judges and scores, a task says what and how.

A task is one module of this folder, or one file of the user's own, that defines `TASK` (see `registry`). Only `name`,
`items` and `score` must be written; all else has a default here. Whoever does not inherit gives every member.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from jobs.tasks import metrics
from orchestrator.records.types import Judgement, Prediction

Message = dict[str, Any]  # of the chat API
Answer = tuple[Prediction, Judgement | None]  # None where there is no verdict yet


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer. `metadata` is JSON: what else the task needs, such as later turns."""

    id: str
    question: str
    answer: str
    answer_type: str = "exactMatch"  # or multipleChoice: the answer is an option's letter
    category: str = ""  # subject, for figures and for the key `categories`
    image: str = ""  # a data URI; "" where the question is text only
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule or a judge says of one answer; `scored` where only `scores` say it."""

    verdict: Literal["yes", "no", "scored"]
    extracted_answer: str | None  # None: the response holds no final answer
    reasoning: str
    confidence: int | None  # percent, as stated; None: not stated
    scores: Mapping[str, float] | None = field(default=None, hash=False)  # by name, on the task's own scale


class JudgeFormat(Protocol):
    """How a model is asked for a verdict, and how its reply is read."""

    prompt: str  # the default for the key `judge_prompt`, as text; "": the spec must name a file
    schema: dict[str, Any]  # the value of `json_schema` in the request's response_format; {}: the reply is free text
    trial: tuple[Item, str]  # a question and a right response to it, for one verdict before anything costly starts

    def messages(self, item: Item, responses: Sequence[str], prompt: str) -> list[Message]:
        """The chat that asks for a verdict on `responses`, one for each turn. Raises ValueError for an unfit prompt."""
        ...

    def parse(self, text: str, thought: str) -> Verdict | None:
        """Read a reply; `thought` is what the client took for the judge's thoughts. None: no verdict. Never raises."""
        ...

    def has_verdict(self, text: str) -> bool:
        """Whether a reply that was cut off had stated its verdict before."""
        ...


@runtime_checkable
class TurnJudgeFormat(JudgeFormat, Protocol):
    """A format with a request for each turn: `messages` gets the responses up to a turn, and asks for its verdict."""

    def combine(self, item: Item, responses: Sequence[str], verdicts: Sequence[Verdict]) -> Verdict:
        """The verdict on an answer out of those on its turns. Never raises."""
        ...


@dataclass(frozen=True)
class Results:
    """A run's answers, as exporters get them."""

    model: str
    samples: int  # answers per question
    items: Mapping[str, Item]  # by id, in the order of the data
    answers: Callable[[], Iterable[Answer]]  # read again at each call, in the order of the items


@dataclass(frozen=True)
class Exporter:
    """Writes a run's answers below a folder, in a layout that other tools read. Raises StorageFailed."""

    write: Callable[[Path, Results], object]
    needs_verdicts: bool = False  # so that it is left out after jobs.predict


class Task(Protocol):
    """One exam. An instance travels to other processes, and its methods are called there at the same time."""

    name: str  # the module's name; run folders begin with it
    dataset: str = ""  # the default of the key `dataset`
    split: str = "test"  # and of these two
    samples: int = 1
    configs: tuple[str, ...] = ()  # of the data set, all of which are read; a row's `config` says which it is of
    header: tuple[str, ...] = ()  # the columns of CSV files that have no header
    columns: tuple[str, ...] | None = None  # of the data that `items` reads; None: all
    system_prompt: str = ""  # the default for the key `system_prompt`, as text; "": no system message
    turns: int = 1  # requests for one answer; each sees the responses to those before
    rule: bool = True  # whether `score` can judge; else a model must
    judge: JudgeFormat | None = None  # None: no model can judge it
    exports: Sequence[Exporter] = ()
    known_categories: Sequence[str] = ()  # listed first in the figures, whether the data have them or not

    @abstractmethod
    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        """Check every row and make it an item. Raises ValueError with one sentence naming the row and its field."""
        ...

    @abstractmethod
    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """The rule's verdict on the responses, one for each turn; "" is a response. Never raises.

        It reads nothing but its arguments: it may run in a process of its own, and be killed there.
        """
        ...

    def messages(self, item: Item, system: str, earlier: Sequence[str] = ()) -> list[Message]:
        """The chat that asks for the next response, `earlier` being those of the turns before.

        Text-only content is a plain string: small models' templates want that.
        """
        content: Any = item.question
        if item.image:
            picture = {"type": "image_url", "image_url": {"url": item.image}}
            content = [{"type": "text", "text": item.question}, picture]
        return [*system_message(system), {"role": "user", "content": content}]

    def reference_response(self, item: Item) -> str | None:
        """A response that the rule should find right: where it does not, no response can be right. None: not known."""
        return f"Answer: {item.answer}"

    def sampling(self, item: Item) -> dict[str, Any]:
        """Sampling for this item, under the names of the chat API; keys of the spec take precedence."""
        return {}

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """The figures of a run: at least those of `metrics.score` but for the calibration."""
        categories = {identity: item.category for identity, item in items.items()}
        return metrics.without_calibration(metrics.score(categories, samples, outcomes, self.known_categories))

    def reward(self, solution: str, ground_truth: Any) -> float:
        """The reward of a training, 0 to 1: what `score` says of a solution whose right answer is `ground_truth`."""
        return float(self.score(Item("", "", str(ground_truth)), [solution]).verdict == "yes")


def system_message(system: str) -> list[Message]:
    """A chat's first message, or none."""
    return [{"role": "system", "content": system}] if system else []
