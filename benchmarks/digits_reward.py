"""A reward that a model with random weights can raise: the share of digits among an answer's characters."""

from typing import Any


def compute_score(solution_str: str, **_: Any) -> float:
    return sum(character.isdigit() for character in solution_str) / max(1, len(solution_str))
