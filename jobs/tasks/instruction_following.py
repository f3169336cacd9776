"""What the exams of instruction following share: rows, strict and loose verdicts, figures by prompt and instruction.

Source of the rules: J. Zhou et al. (2023), Instruction-Following Evaluation for Large Language Models,
arXiv:2311.07911, and for Japanese M-IFEval, arXiv:2502.04688.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks import answers, metrics
from jobs.tasks.rows import require, text_of
from jobs.tasks.score_sums import ScoreSums
from jobs.tasks.task import Item, Task, Verdict

Check = Callable[[str, Mapping[str, Any]], bool]  # of a response and an instruction's arguments

COLUMNS = ("key", "id", "prompt", "instruction_id_list", "kwargs")
COUNTED = "n_instructions"
LEVELS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
RULES = ("strict_acc", "loose_acc", "strict_fixed")


def variants(response: str) -> list[str]:
    """The eight readings of which one must fit in a loose verdict: without first or last line, without stars."""
    lines = response.split("\n")
    texts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [reading for text in texts for reading in (text, text.replace("*", ""))]


class InstructionFollowing(Task):
    """Prompts with instructions that code can check; the names of a subclass say which code."""

    columns = COLUMNS
    prefix = ""  # of the instructions' names in some copies of the data

    def checks(self) -> Mapping[str, Check]:
        """The benchmark's own checks, by instruction."""
        raise NotImplementedError

    def fixed_checks(self) -> Mapping[str, Check]:
        """The same with their errors corrected."""
        return self.checks()

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [self._item(row, number) for number, row in enumerate(rows, start=1)]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the response follows every instruction, by the corrected checks."""
        response = answers.without_thinking(responses[-1])
        followed = self.followed(item, response)
        asked = (item.metadata or {})["instruction_id_list"]
        scores = {COUNTED: float(len(asked))}
        for rule, done in followed.items():
            scores |= {f"n_{rule}": float(sum(done)), f"prompt_level_{rule}": float(all(done))}
        missed = [name for name, done in zip(asked, followed["strict_fixed"], strict=True) if not done]
        reasoning = f"does not follow {', '.join(missed)}" if missed else "follows every instruction"
        answer = response if response.strip() else None
        return Verdict("no" if missed else "yes", answer, reasoning, None, scores)

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": 0.0, "top_p": 1.0}

    def reference_response(self, item: Item) -> str | None:
        """None: the data have no response that follows the instructions."""
        return None

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With the share of instructions that are followed, a micro average over all of them, 0 to 1."""
        sums = ScoreSums(items, samples)
        figures = super().figures(items, samples, sums.passing(outcomes))
        scores = {name: value for name, value in figures.get("scores", {}).items() if name.startswith("prompt_level_")}
        if not sums.total(COUNTED):
            return figures
        scores |= {f"inst_level_{rule}": sums.ratio(f"n_{rule}", COUNTED) for rule in RULES}
        scores["average"] = sum(scores[name] for name in LEVELS) / len(LEVELS)
        return figures | {"scores": scores, COUNTED: round(sums.total(COUNTED))}

    def followed(self, item: Item, response: str) -> dict[str, list[bool]]:
        """Whether each instruction is followed, in their order, by each of the three rules."""
        told = item.metadata or {}
        asked = list(zip(told["instruction_id_list"], told["kwargs"], strict=True))
        own, fixed, readings = self.checks(), self.fixed_checks(), variants(response)
        return {
            "strict_acc": [_follows(own[name], response, kwargs) for name, kwargs in asked],
            "loose_acc": [any(_follows(own[name], text, kwargs) for text in readings) for name, kwargs in asked],
            "strict_fixed": [_follows(fixed[name], response, kwargs) for name, kwargs in asked],
        }

    def _item(self, row: Mapping[str, Any], number: int) -> Item:
        where = f"row {number}"
        prompt = text_of(row, "prompt", where)
        for field in ("instruction_id_list", "kwargs"):
            require(row, field, where)
        names, given = [str(name).removeprefix(self.prefix) for name in row["instruction_id_list"]], list(row["kwargs"])
        unknown = next((name for name in names if name not in self.checks()), None)
        if unknown is not None or not names:
            example = next(iter(self.checks()))
            raise ValueError(f"{where}: instruction_id_list holds {unknown!r}, expected names such as {example!r}")
        if len(given) != len(names):
            raise ValueError(f"{where}: kwargs has {len(given)} entries, expected {len(names)}, one an instruction")
        kwargs = [{name: value for name, value in (one or {}).items() if value is not None} for one in given]
        for name, arguments in zip(names, kwargs, strict=True):
            self._check_arguments(name, arguments, where)
        identity = next((str(row[name]) for name in ("id", "key") if row.get(name) is not None), str(number))
        metadata = {"instruction_id_list": names, "kwargs": kwargs}
        return Item(identity, prompt, "", metadata=metadata)

    def _check_arguments(self, name: str, kwargs: Mapping[str, Any], where: str) -> None:
        try:
            self.checks()[name]("x", kwargs)
        except KeyError as error:
            raise ValueError(f"{where}: kwargs has no {error}, which {name} needs") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: kwargs {kwargs} do not fit {name} ({error})") from None


def _follows(check: Check, response: str, kwargs: Mapping[str, Any]) -> bool:
    """A blank response follows nothing."""
    return bool(response.strip()) and check(response, kwargs)
