"""From a spec to its questions, and from a question to the request that asks it."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from jobs.exam.spec import ExamSpec, load_prompt, sampling
from jobs.tasks.registry import find_task
from jobs.tasks.task import Item, Message
from orchestrator.data.configs import read_configs
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import find_path
from orchestrator.records.types import Question, Wanted, digest
from orchestrator.serving import identity
from orchestrator.serving.identity import Served


def load_items(spec: ExamSpec) -> list[Item]:
    """The questions that the spec asks for. Raises SpecError with the file, the row and what is wrong there."""
    task = find_task(spec.task)
    if not spec.dataset:
        raise SpecError(f"task={spec.task} names no data set of its own. Give dataset=")
    try:
        rows = read_configs(
            find_path(spec.dataset), task.configs, split=spec.split, columns=task.columns, header=task.header
        )
        items = task.items(rows)
        _check_items(items)
        return select(
            items,
            multimodal=spec.multimodal,
            categories=spec.categories,
            question_ids=spec.question_ids,
            max_samples=spec.max_samples,
        )
    except ValueError as error:
        raise SpecError(f"{spec.dataset}: {error}") from None


def select(
    items: Iterable[Item],
    *,
    multimodal: bool = False,
    categories: Sequence[str] = (),
    question_ids: Sequence[str] = (),
    max_samples: int | None = None,
) -> list[Item]:
    """The questions that are asked for: text-only ones unless `multimodal`, and of these the first `max_samples`.

    Raises ValueError for a category or id that the data do not have, and when nothing is left.
    """
    everything = list(items)
    _check_known("category", categories, {item.category for item in everything})
    _check_known("question id", question_ids, {item.id for item in everything})
    wanted_categories, wanted_ids = set(categories), set(question_ids)
    chosen = [
        item
        for item in everything
        if (not wanted_categories or item.category in wanted_categories) and (not wanted_ids or item.id in wanted_ids)
    ]
    shown = [item for item in chosen if multimodal or not item.image]
    if wanted_ids and len(shown) < len(chosen):
        hidden = next(item.id for item in chosen if item.image)
        raise ValueError(f"question {hidden!r} has an image; give multimodal=true to ask it")
    if not shown:
        raise ValueError(
            f"the selection leaves none of {len(everything)} questions ({len(chosen)} fit but have an image)"
        )
    return shown[:max_samples]


def _check_known(what: str, wanted: Sequence[str], known: set[str]) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4) or sorted(known)[:3]
            raise ValueError(f"there is no {what} {name!r}; the nearest are {', '.join(map(repr, near))}")


def _check_items(items: Sequence[Item]) -> None:
    """Raise ValueError where there are none, or several with one id, which is what records go by."""
    if not items:
        raise ValueError("there are no questions in it; expected at least one row")
    identity, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} rows have the id {identity!r}; ids must be unique")


class Requests:
    """Turns an item into what is wanted of it and into the messages that ask for it. Travels to the actors.

    `served` is who answers; without it only answers of earlier versions, which do not say so, can be found.
    """

    def __init__(self, spec: ExamSpec, served: Served | None = None) -> None:
        self._spec = spec
        self._task = find_task(spec.task)
        self._system, self.prompt_sha256 = load_prompt(spec.system_prompt, self._task.system_prompt)
        self._sampling = sampling(spec)
        self._served = identity.deciding(served) if served else None
        asked = [spec.max_completion_tokens, spec.provider, spec.base_url]
        options = identity.deciding_options(spec.serving) | {"max_model_len": spec.serving.max_model_len}
        self._outcome_digest = digest([*asked, options])
        self._legacy_outcome_digest = digest([*asked, spec.serving.model_dump(mode="json")])

    def messages(self, item: Item) -> list[Message]:
        return self._task.messages(item, self._system)

    def options(self, item: Item) -> dict[str, Any]:
        """What the task wants for this item and the spec does not say."""
        wished = self._task.sampling(item)
        budget = () if self._spec.max_completion_tokens == "auto" else ("max_tokens", "max_completion_tokens")
        return {name: value for name, value in wished.items() if name not in (*self._sampling, *budget)}

    def wanted(self, item: Item) -> list[Wanted]:
        """One entry per sample of this question."""
        asked, sampled = self.messages(item), self._sampling | self.options(item)
        wanted = Wanted(
            item.id,
            sample=0,
            fingerprint=digest([self._served, asked, sampled]) if self._served else "",
            spec=self._outcome_digest,
            reference=reference_digest(item),
            legacy=digest([self._spec.model, asked, sampled]),
            legacy_spec=self._legacy_outcome_digest,
        )
        return [wanted._replace(sample=sample) for sample in range(self._spec.samples)]

    def question(self, row: dict[str, Any]) -> Question:
        """What the prediction stage asks for a stored row."""
        item = item_of(row)
        wanted = self.wanted(item)[row["sample"]]
        return Question(wanted, self.messages(item), self.prompt_sha256, self.options(item))

    def prompt_characters(self, item: Item) -> int:
        """Length of the prompt's text, for the estimate of `--dry-run`."""
        return len(self._system) + len(item.question)


def reference_digest(item: Item) -> str:
    """Of what a verdict is about beside the answer: a question or a reference that changed is judged again."""
    metadata = [item.metadata] if item.metadata else []
    return digest([item.question, item.image, item.answer, item.answer_type, *metadata])


def row_of(item: Item) -> dict[str, Any]:
    """An item as it is stored for the stages."""
    return {
        "id": item.id,
        "question": item.question,
        "answer": item.answer,
        "answer_type": item.answer_type,
        "category": item.category,
        "image": item.image,
        **({"metadata": item.metadata} if item.metadata else {}),
    }


def item_of(row: dict[str, Any]) -> Item:
    """The item of a stored row, whatever else the row says."""
    fields = ("id", "question", "answer", "answer_type", "category", "image", "metadata")
    return Item(**{name: row[name] for name in fields if name in row})
