"""Texts of a wanted length in any model's tokens, where no data is given: they cost the compute of real ones."""

import itertools
import json
import random
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.training.data.tokens import TokenCounter
from orchestrator.training.data.turns import Message

DISTINCT = 16  # rows, which then repeat: what they say does not change the time that they take
NUMBERS = 500  # the words; every tokenizer knows them, and those of our shapes as one token each

Form = Callable[[list[str]], list[Message]]  # from words to messages


def write_rows(path: Path, count: int, length: int, model: str) -> None:
    """`count` conversations as JSONL, of `length` tokens each by the chat template of `model`; a tokenizer that joins
    words may miss that by a token or two. Raises SpecError for a model without a template."""
    counter, rng = TokenCounter(model, prompt=False), random.Random(0)
    texts = (_words(rng, length) for _ in range(DISTINCT))
    rows = [_conversation(words[: _fitting(words, length, counter, _conversation)]) for words in texts]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": row}) + "\n" for row in itertools.islice(itertools.cycle(rows), count))


def prompts(count: int, length: int, model: str) -> list[list[Message]]:
    """`count` questions, each another one, of about `length` tokens as in `write_rows`. Raises SpecError."""
    rng = random.Random(0)
    texts = [_words(rng, length) for _ in range(count)]
    fitting = _fitting(texts[0], length, TokenCounter(model, prompt=True), _question)
    return [_question(words[:fitting]) for words in texts]


def _words(rng: random.Random, count: int) -> list[str]:
    return [str(rng.randrange(NUMBERS)) for _ in range(count)]


def _fitting(words: list[str], length: int, counter: TokenCounter, form: Form) -> int:
    """How many of the words make `length` tokens, at least two."""

    def tokens(size: int) -> int:
        (found,) = counter.count([form(words[:size])])
        if isinstance(found, str):
            raise SpecError(
                f"the model's chat template refuses a question and its answer ({found}). Give another model"
            )
        return found

    return bisect_right(range(len(words) + 1), length, lo=2, key=tokens) - 1


def _conversation(words: list[str]) -> list[Message]:
    return [*_question(words[:1]), {"role": "assistant", "content": " ".join(words[1:])}]


def _question(words: list[str]) -> list[Message]:
    return [{"role": "user", "content": " ".join(words)}]
