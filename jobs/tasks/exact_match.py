"""A reward for whole answers: the solution, without its thoughts, is the right answer in any notation of it."""

from typing import Any

from jobs.tasks import answers


def reward(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> float:
    """1 where the solution is the right answer but for case, white space, width, outer punctuation and the notation of
    numbers (72.0 is 72), as the exam's rule judge compares; x² is not x2."""
    answer, gold = answers.without_thinking(solution_str).strip(), str(ground_truth).strip()
    same = answer == gold  # of any length; only short texts have notations
    return float(bool(answer) and (same or answers.equivalent(answer, gold, "exactMatch")))
