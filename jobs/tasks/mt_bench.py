"""What MT-Bench's two languages share: two turns, a judge who rates each of them from 1 to 10, and the figures.

Source: L. Zheng et al. (2023), Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, arXiv:2306.05685; the names of
the figures are those of the Swallow suite. That suite's own numbers come from temperatures and second turns that it
mixes up between questions and samples, so no mode of ours reproduces them: here each question has the temperature of
its category, and each of the five samples is a conversation of its own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.tasks import answers, metrics
from jobs.tasks.japanese_share import count_japanese
from jobs.tasks.rows import require, text_of
from jobs.tasks.task import Item, Message, Task, Verdict, system_message

CATEGORIES = ("coding", "extraction", "humanities", "math", "reasoning", "roleplay", "stem", "writing")
WITH_REFERENCE = ("math", "reasoning", "coding")
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}  # else 0
LONGEST_ANSWER = 8192  # characters of a response that the next turn and the judge see, as in the Swallow suite
TURNS = 2
SECTIONS = tuple(f"{turn} turn{end}" for end in ("", " with reference") for turn in ("first", "second"))
_SECTION = re.compile(r"^=== (.+?) ===\n", re.MULTILINE)
_USER = "\n--- user ---\n"
_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_ORIGINAL = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def read_rating(reply: str) -> float | None:
    """The last rating `[[n]]` of a judge's reply, 1 to 10; None where there is none."""
    found = _RATING.findall(reply)
    rating = float(found[-1]) if found else 0.0
    return rating if 1 <= rating <= 10 else None


def read_rating_original(reply: str) -> float:
    """The rating as the original reads it: the first `[[n]]`, else the first `[n]`, else −1."""
    found = next((match for pattern in _ORIGINAL if (match := pattern.search(reply))), None)
    return float(found[1]) if found else -1.0


def cut(response: str) -> str:
    """What of a response is shown to the next turn and to the judge."""
    return answers.without_thinking(response)[:LONGEST_ANSWER]


@dataclass
class RatingJudge:
    """Asks for a rating of the last of an answer's turns, so for one request a turn; `combine` makes them one verdict.

    The prompt has a section for each of `SECTIONS`: a system message, and behind a line `--- user ---` the user's, with
    {question_1} and {answer_1}, and {reference_1} where the section has a reference; the second turn's also with 2.
    """

    prompt: str
    trial: tuple[Item, str] = (
        Item("preflight", "What is 2 + 2?", "", category="writing", metadata={"turns": ["What is 2 + 2?"] * TURNS}),
        "2 + 2 is 4.",
    )
    schema: dict[str, Any] = field(default_factory=dict)  # none: the rating stands in a text

    def messages(self, item: Item, responses: Sequence[str], prompt: str) -> list[Message]:
        told = item.metadata or {}
        reference = told.get("reference") if item.category in WITH_REFERENCE else None
        values: dict[str, str] = {}
        for turn, (question, response) in enumerate(zip(told["turns"], responses, strict=False), start=1):
            values |= {f"question_{turn}": question, f"answer_{turn}": cut(response)}
            values |= {f"reference_{turn}": reference[turn - 1]} if reference else {}
        name = ("first", "second")[len(responses) - 1] + " turn" + (" with reference" if reference else "")
        system, user = _sections(prompt)[name]
        # One pass, so that braces in a question or a response are never taken for placeholders.
        user = re.sub(r"\{(\w+_[12])\}", lambda match: values.get(match[1], match[0]), user)
        return [*system_message(system), {"role": "user", "content": user}]

    def parse(self, text: str, thought: str) -> Verdict | None:
        reply = answers.without_thinking(text)
        rating = read_rating(reply)
        if rating is None:
            return None
        return Verdict(
            "scored", f"{rating:g}", reply, None, {"rating": rating, "original": read_rating_original(reply)}
        )

    def combine(self, item: Item, responses: Sequence[str], verdicts: Sequence[Verdict]) -> Verdict:
        scores: dict[str, float] = {}
        for turn, verdict in enumerate(verdicts, start=1):
            found = verdict.scores or {}
            scores |= {f"turn_{turn}": found["rating"], f"turn_{turn}_original_reading": found["original"]}
        counts = [count_japanese(cut(response)) for response in responses]
        scores["n_japanese_characters"] = float(sum(japanese for japanese, _ in counts))
        scores["n_characters"] = float(sum(characters for _, characters in counts))
        answered = all(cut(response).strip() for response in responses)
        ratings = ", ".join(verdict.extracted_answer or "" for verdict in verdicts)
        reasoning = "\n\n".join(verdict.reasoning for verdict in verdicts)
        return Verdict("scored", ratings if answered else None, reasoning, None, scores)

    def has_verdict(self, text: str) -> bool:
        return read_rating(text) is not None


def _sections(prompt: str) -> dict[str, tuple[str, str]]:
    """System and user message of each section. Raises ValueError where one is missing or lacks a placeholder."""
    _, *parts = _SECTION.split(prompt)
    found = {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}
    for name in SECTIONS:
        turns = range(1, 2 + name.startswith("second"))
        kinds = ("question", "answer", "reference") if name.endswith("reference") else ("question", "answer")
        if _USER not in found.get(name, ""):
            raise ValueError(f"the judge's prompt has no section '=== {name} ===' with a line '{_USER.strip()}'")
        missing = [f"{{{kind}_{turn}}}" for kind in kinds for turn in turns if f"{{{kind}_{turn}}}" not in found[name]]
        if missing:
            raise ValueError(f"the judge's prompt has no {missing[0]} in its section '=== {name} ==='")
    return {name: (text.split(_USER)[0], text.split(_USER, 1)[1]) for name, text in found.items() if _USER in text}


class MtBench(Task):
    """80 conversations of two turns in eight categories, five times each."""

    split = "train"
    samples = 5
    columns = ("question_id", "category", "turns", "reference")
    turns = TURNS
    rule = False
    known_categories = CATEGORIES
    japanese = False  # whether the figures have the share of Japanese characters

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [_item(row, number) for number, row in enumerate(rows, start=1)]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        return Verdict("no", None, "only a model can judge it", None)

    def messages(self, item: Item, system: str, earlier: Sequence[str] = ()) -> list[Message]:
        questions = (item.metadata or {})["turns"]
        chat = [*system_message(system), {"role": "user", "content": questions[0]}]
        for response, question in zip(earlier, questions[1:], strict=False):
            chat += [{"role": "assistant", "content": cut(response)}, {"role": "user", "content": question}]
        return chat

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": TEMPERATURES.get(item.category, 0.0)}

    def reference_response(self, item: Item) -> str | None:
        return None

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With the ratings' means, 0 to 1, under the Swallow suite's names.

        A question counts by the mean of its samples, each turn by itself. An answer without a rating does not count;
        `n_unjudged` says how many those are. The interval is over questions.
        """
        ratings = _Ratings(items, samples)
        figures = super().figures(items, samples, ratings.passing(outcomes))
        scores = ratings.means() | (ratings.japanese_ratios() if self.japanese else {})
        return figures | {"scores": scores, "judge_score_overall_avg_half_width": ratings.half_width()}


@dataclass
class _Ratings:
    """The scores of a run's answers by question."""

    items: Mapping[str, Item]
    samples: int
    scores: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)

    def passing(self, outcomes: Iterable[metrics.Outcome]) -> Iterator[metrics.Outcome]:
        for outcome in outcomes:
            if outcome.id in self.items and 0 <= outcome.sample < self.samples and outcome.scores:
                self.scores.setdefault(outcome.id, []).append(outcome.scores)
            yield outcome

    def means(self) -> dict[str, float]:
        found = {}
        for group in ("overall", *CATEGORIES):
            for name, keys in _FIGURES.items():
                if values := self._of_questions(group, keys):
                    found[f"judge_score_{group}_{name}"] = sum(values) / len(values)
        return found

    def japanese_ratios(self) -> dict[str, float]:
        found = {}
        for group in ("overall", *CATEGORIES):
            answers_of_group = [scores for of in self._questions(group) for scores in of]
            if characters := sum(scores["n_characters"] for scores in answers_of_group):
                japanese = sum(scores["n_japanese_characters"] for scores in answers_of_group)
                found[f"japanese_ratio_{group}"] = japanese / characters
        return found

    def half_width(self) -> float | None:
        """Of the 95 % interval around the overall score, on its scale."""
        percent = metrics.clustered_half_width(self._of_questions("overall", _FIGURES["avg"]))
        return None if percent is None else round(percent / 100, 4)

    def _of_questions(self, group: str, keys: Sequence[str]) -> list[float]:
        """Each question's mean over samples and `keys`, 0 to 1."""
        per_question = (sum(scores[key] for scores in of for key in keys) / len(of) for of in self._questions(group))
        return [total / len(keys) / 10 for total in per_question]

    def _questions(self, group: str) -> list[list[Mapping[str, float]]]:
        return [of for name, of in self.scores.items() if group in ("overall", self.items[name].category)]


_FIGURES = {
    "turn_1_avg": ("turn_1",),
    "turn_2_avg": ("turn_2",),
    "avg": ("turn_1", "turn_2"),
    "avg_original_reading": ("turn_1_original_reading", "turn_2_original_reading"),
}


def _item(row: Mapping[str, Any], number: int) -> Item:
    where = f"row {number}"
    identity = text_of(row, "question_id", where, numbers=(int,))
    category = text_of(row, "category", where)
    require(row, "turns", where)
    turns = _two_texts(row["turns"], "turns", where)
    metadata: dict[str, Any] = {"turns": turns}
    if category in WITH_REFERENCE:
        reference = row.get("reference")
        if isinstance(reference, list) and reference and isinstance(reference[0], Mapping):
            reference = reference[0].get("turns")
        metadata["reference"] = _two_texts(reference, "reference", f"{where} (category {category})")
    return Item(identity, turns[0], "", category=category, metadata=metadata)


def _two_texts(value: object, field_name: str, where: str) -> list[str]:
    texts = list(value) if isinstance(value, list | tuple) else []
    if len(texts) != TURNS or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: {field_name} is not a list of {TURNS} texts, one a turn")
    return texts
