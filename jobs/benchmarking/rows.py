"""Conversations of exact length in any model's tokens, where no data set is given: the compute is that of real rows."""

import itertools
import json
import random
from bisect import bisect_right
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.training.formats import Message
from orchestrator.training.tokens import TokenCounter

DISTINCT = 16  # rows, which then repeat: what they say does not change the time that they take
NUMBERS = 500  # the words; every tokenizer knows them, and those of our shapes as one token each


def write_rows(path: Path, count: int, length: int, model: str) -> None:
    """`count` conversations as JSONL, of `length` tokens each by the chat template of `model`; a tokenizer that joins
    words may miss that by a token or two. Raises SpecError for a model without a template."""
    rows = itertools.islice(itertools.cycle(_rows(length, model)), count)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": row}) + "\n" for row in rows)


def _rows(length: int, model: str) -> list[list[Message]]:
    counter = TokenCounter(model, prompt=False)

    def tokens(words: list[str]) -> int:
        (found,) = counter.count([_conversation(words)])
        if found is None:
            raise SpecError(
                f"the chat template of {model} refuses a question and its answer. Give another train.model="
            )
        return found

    rng = random.Random(0)
    rows = []
    for _ in range(DISTINCT):
        words = [str(rng.randrange(NUMBERS)) for _ in range(length)]
        fitting = bisect_right(range(length + 1), length, lo=2, key=lambda size: tokens(words[:size])) - 1
        rows.append(_conversation(words[:fitting]))
    return rows


def _conversation(words: list[str]) -> list[Message]:
    return [{"role": "user", "content": words[0]}, {"role": "assistant", "content": " ".join(words[1:])}]
