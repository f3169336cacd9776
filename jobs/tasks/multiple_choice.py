"""What the multiple-choice tasks share: the prompt, two readings of an answer, figures by subject and by group."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks import metrics
from jobs.tasks.choice_groups import Shares
from jobs.tasks.choice_reading import LETTERS, Language, extractive_letter, read_letter
from jobs.tasks.choice_rows import Choice
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import text_of
from jobs.tasks.task import Item, Task, Verdict

SUBJECT_COLUMNS = ("config", "subject", "type", "category")  # the first that a row has names its subject
LABELS: dict[Language, str] = {"en": "Answer", "ja": "回答"}
PROMPTS: dict[Language, str] = {language: load_prompt(f"choice_{language}.txt")[0] for language in LABELS}


class MultipleChoice(Task):
    """A question with up to ten options, of which one is right. An item's category is its subject."""

    language: Language = "en"
    prompt = PROMPTS["en"]  # with {letters} {question} {options}
    mark = ")"  # behind an option's letter
    subject_columns: Sequence[str] = SUBJECT_COLUMNS
    groups: Mapping[str, Sequence[str]] = {}  # of subjects, for micro averages
    outside: Sequence[str] = ()  # subjects that the Swallow suite counts in none of its groups

    @abstractmethod
    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> Choice:
        """A row's question and options; `number` counts the rows from 1. Raises ValueError."""
        ...

    def identity(self, row: Mapping[str, Any], where: str) -> str:
        """The data set's own id; "" where it has none."""
        return text_of(row, "id", where, numbers=(int,)) if row.get("id") is not None else ""

    def subject(self, row: Mapping[str, Any]) -> str:
        """The row's subject; "" where it names none."""
        return next((value for name in self.subject_columns if isinstance(value := row.get(name), str) and value), "")

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        """Ids are the data set's own, or `subject/number`, the number being that of the row among its subject's."""
        numbers: Counter[str] = Counter()
        found = []
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"row {number} is a {type(row).__name__}, expected an object with a question's columns"
                )
            subject = self.subject(row)
            numbers[subject] += 1
            place = f"{subject}/{numbers[subject]}".removeprefix("/")
            identity = self.identity(row, f"row {place}") or place
            choice = self.choice(row, f"row {place}", identity, number)
            found.append(self._item(identity, choice, subject))
        return found

    def _item(self, identity: str, choice: Choice, subject: str) -> Item:
        letters = LETTERS[: len(choice.options)]
        lines = [f"{letter}{self.mark} {text}" for letter, text in zip(letters, choice.options, strict=True)]
        values = {"letters": ", ".join(letters), "question": choice.question, "options": "\n".join(lines)}
        # One pass, so that braces in a question are never taken for placeholders.
        text = re.sub(r"\{(letters|question|options)\}", lambda found: values[found[1]], self.prompt)
        return Item(identity, text, letters[choice.gold], "multipleChoice", subject, metadata={"letters": letters})

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the stated letter is. `extractive_match` is the original's score, `answered` 1 for a letter."""
        letters = str((item.metadata or {}).get("letters", LETTERS))
        letter = read_letter(responses[-1], letters)
        scores = {
            "extractive_match": float(extractive_letter(responses[-1], letters, self.language) == item.answer),
            "answered": float(letter is not None),
        }
        if letter is None:
            return Verdict("no", None, "the response states none of the options", None, scores)
        if letter == item.answer:
            return Verdict("yes", letter, "the right option", None, scores)
        return Verdict("no", letter, "another option", None, scores)

    def reference_response(self, item: Item) -> str:
        return f"{LABELS[self.language]}: {item.answer}"

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With `n_unanswered`, the scores of each subject and, under `groups`, the shares of each group.

        A group's accuracy counts all of its subjects, its scores those alone that the original counts there.
        """
        shares = Shares({identity: item.category for identity, item in items.items()}, samples)
        figures = super().figures(items, samples, shares.counted(outcomes))
        categories = {
            name: found | {"scores": shares.of([name])["scores"]} for name, found in figures["categories"].items()
        }
        told = figures | {"n_unanswered": shares.n_unanswered, "categories": categories}
        if self.groups:
            told["groups"] = {
                group: shares.of(self._of_group(group, categories), self.outside) for group in self.groups
            }
        return told

    def _of_group(self, group: str, subjects: Iterable[str]) -> list[str]:
        """The subjects of a group, and what names the group itself: data of other sources have no finer column."""
        return [name for name in subjects if name in self.groups[group] or name.replace(" ", "_") == group]
