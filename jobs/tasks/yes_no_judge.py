"""Asks a judge whether an answer is right, as Humanity's Last Exam does; it fits every task with reference answers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.tasks.task import Item, Message, Verdict
from jobs.tasks.verdicts import parse_verdict

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "extracted_final_answer": {"type": "string"},
        "reasoning": {"type": "string"},
        "correct": {"type": "string", "enum": ["yes", "no"]},
        "confidence": {"type": "integer"},
        "strict": {"type": "boolean", "const": True},
    },
    "required": ["extracted_final_answer", "reasoning", "correct", "confidence", "strict"],
    "additionalProperties": False,
}
TRIAL = (Item("preflight", "What is 2 + 2?", "4", "exactMatch", "Math"), "Answer: 4\nConfidence: 90%")
# A judge that keeps to the schema and comes as far as its verdict can judge; where it ends is its budget's matter.
STATED = re.compile(r'^\s*\{.*"correct"\s*:\s*"(?:yes|no)"', re.DOTALL)


@dataclass
class YesNoJudge:
    """Asks whether a response is right, given the reference."""

    prompt: str = ""
    schema: dict[str, Any] = field(
        default_factory=lambda: {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA}
    )
    trial: tuple[Item, str] = TRIAL

    def messages(self, item: Item, responses: Sequence[str], prompt: str) -> list[Message]:
        """The chat that asks for a verdict on the last response; the judge sees no image, as in the official code.

        Raises ValueError when `prompt` lacks {question}, {response} or {correct_answer}.
        """
        values = {"question": item.question, "response": responses[-1], "correct_answer": item.answer}
        missing = [name for name in values if f"{{{name}}}" not in prompt]
        if missing:
            raise ValueError(
                f"the judge's prompt has no {{{missing[0]}}}; it needs {{question}} {{response}} {{correct_answer}}"
            )
        # One pass, so that braces in a question or a response are never taken for placeholders.
        text = re.sub(r"\{(question|response|correct_answer)\}", lambda match: values[match[1]], prompt)
        return [{"role": "user", "content": text}]

    def parse(self, text: str, thought: str) -> Verdict | None:
        return parse_verdict(text, thought)

    def has_verdict(self, text: str) -> bool:
        return STATED.search(text) is not None
