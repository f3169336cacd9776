"""What the exams of translation share: one sentence a question, and BLEU over the whole corpus.

`bleu` and `bleu_lmevalja` are the original's figures: its translation is the rest of the last line that begins with the
label and an ASCII colon, and any other answer counts as empty. `bleu_any_label` takes the label in bold and with a
full-width colon too. All are over everything that was asked: no answer is an empty translation.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from jobs.tasks import bleu, metrics
from jobs.tasks.answers import without_thinking
from jobs.tasks.bleu import COUNTS, Counts, Segmenter
from jobs.tasks.libraries import require_libraries
from jobs.tasks.row_ids import RowIds
from jobs.tasks.rows import require, text_of
from jobs.tasks.scoring_process import CallFailed
from jobs.tasks.task import Item, Task, Verdict

ANY_LABEL = "bleu_any_label"


class Translation(Task):
    """A subclass has the languages, the prompt and its figures, each with its segmenter."""

    columns = ("id", "translation")
    source: str  # a key of the column `translation`
    target: str
    label: str  # before the translation
    prompt: str  # with {source}
    segmenters: Mapping[str, Segmenter]  # by the figure's name

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        require_libraries("sacrebleu", *sorted({name for name in self.segmenters.values() if name}))
        ids = RowIds()
        return [self._item(row, f"row {number}", ids) for number, row in enumerate(rows, start=1)]

    def _item(self, row: Mapping[str, Any], where: str, ids: RowIds) -> Item:
        require(row, "translation", where)
        texts = _texts(row["translation"], where)
        source = text_of(texts, self.source, f"{where}, translation")
        reference = text_of(texts, self.target, f"{where}, translation").rstrip()
        return Item(ids.of(row, source), self.prompt.replace("{source}", source) + "\n", reference)

    def reference_response(self, item: Item) -> str:
        return f"{self.label}: {item.answer}"

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """The counts of each figure, for `figures` to sum up; there are none where they could not be found."""
        original, any_label = original_line(responses[-1], self.label), labelled_line(responses[-1], self.label)
        readings = [any_label if name == ANY_LABEL else original for name in self.segmenters]
        scores = {"unextracted": float(any_label is None), "unextracted_original": float(original is None)}
        wanted = zip(readings, self.segmenters.values(), strict=True)
        try:
            found = bleu.counts([(reading or "", item.answer, segmenter) for reading, segmenter in wanted])
        except CallFailed as error:
            return Verdict("scored", any_label, f"the words could not be counted: {error}", None, scores)
        for name, row in zip(self.segmenters, found, strict=True):
            scores |= {f"{name}.{count}": value for count, value in zip(COUNTS, row, strict=True)}
        reason = "counted for the corpus" if any_label else f"the response has no line that begins with {self.label}:"
        return Verdict("scored", any_label, reason, None, scores)

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With each BLEU and its interval under `scores` and `bleu_intervals`, where anything was scored."""
        corpus = _Corpus(self.segmenters, items, samples)
        figures = super().figures(items, samples, corpus.passing(outcomes))
        return figures | corpus.figures()


class _Corpus:
    """The counts of a run's answers, by question."""

    def __init__(self, segmenters: Mapping[str, Segmenter], items: Mapping[str, Item], samples: int) -> None:
        self._segmenters, self._items, self._samples = segmenters, items, samples
        self._of: dict[str, list[Mapping[str, float]]] = {identity: [] for identity in items}
        self._unextracted = dict.fromkeys(("unextracted", "unextracted_original"), 0)

    def passing(self, outcomes: Iterable[metrics.Outcome]) -> Iterator[metrics.Outcome]:
        """The outcomes without their counts, whose means say nothing."""
        for outcome in outcomes:
            scores = outcome.scores or {}
            if outcome.id in self._of and 0 <= outcome.sample < self._samples:
                for name in self._unextracted:
                    self._unextracted[name] += int(scores.get(name, 0))
                if len(scores) > len(self._unextracted):
                    self._of[outcome.id].append(scores)
            yield replace(outcome, scores=None)

    def figures(self) -> dict[str, Any]:
        if not any(self._of.values()):
            return {}
        rows = {name: self._rows(name) for name in self._segmenters}
        return {
            "scores": {name: bleu.corpus_bleu(chain.from_iterable(of)) for name, of in rows.items()},
            "bleu_intervals": {name: bleu.bleu_interval(of) for name, of in rows.items()},
            "bleu_signature": bleu.signature(),
            "bleu_segmenters": {name: bleu.described(segmenter) for name, segmenter in self._segmenters.items()},
            **{f"n_{name}": count for name, count in self._unextracted.items()},
        }

    def _rows(self, name: str) -> list[list[Counts]]:
        """One figure's counts of each question, as many as there are samples."""
        missing = [identity for identity, found in self._of.items() if len(found) < self._samples]
        segmenter = self._segmenters[name]
        empty = bleu.lengths_of_references([(self._items[identity].answer, segmenter) for identity in missing])
        without_answer = dict(zip(missing, empty, strict=True))
        rows = []
        for identity, found in self._of.items():
            counted = [[scores[f"{name}.{count}"] for count in COUNTS] for scores in found]
            absent = self._samples - len(counted)
            rows.append(counted + absent * [without_answer[identity]] if absent else counted)
        return rows


def original_line(response: str, label: str) -> str | None:
    """What follows the last line-start `label:`, up to the end of that line, or of the next that is not empty."""
    return _last(rf"^\s*{label}:\s*(.*)$", response)


def labelled_line(response: str, label: str) -> str | None:
    """The same without thoughts, with the label in bold or as a quotation, and with a colon of any width."""
    found = _last(rf"^[\s>*_]*{label}[*_]*[:：][*_]*\s*(.*)$", without_thinking(response))
    stated = (found or "").strip()
    if stated.count("**") == 1:  # the label began the bold text
        stated = stated.removesuffix("**").strip()
    return stated or None


def _last(pattern: str, text: str) -> str | None:
    found = re.findall(pattern, text, re.MULTILINE)
    return found[-1] if found else None


def _texts(value: Any, where: str) -> dict[str, Any]:
    """Both languages' texts: an object, or one written as a string; of several texts in a list the first."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"{where}: translation is a text that is not an object of languages and texts") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: translation is a {type(value).__name__}, expected an object of languages and texts")
    return {name: text[0] if isinstance(text, list | tuple) and text else text for name, text in value.items()}
