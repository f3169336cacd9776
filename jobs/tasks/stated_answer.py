"""The rule for tasks whose answers are short texts: the answer that a response states equals the reference."""

from jobs.tasks import answers, gsm8k
from jobs.tasks.task import Item, Verdict


def rule_verdict(item: Item, response: str) -> Verdict:
    """The verdict of the rule judge: the stated final answer equals the reference after normalising."""
    extracted, confidence = answers.read_answer(response)
    if extracted is None:
        return Verdict("no", None, "the response states no final answer", None)
    if answers.equivalent(extracted, item.answer, item.answer_type) or gsm8k.same(response, item.answer):
        return Verdict("yes", extracted, "equal to the reference after normalising", confidence)
    return Verdict("no", extracted, "not equal to the reference after normalising", confidence)
