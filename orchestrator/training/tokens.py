"""Lengths of conversations in tokens, exactly as verl's data sets build them."""

from itertools import accumulate, pairwise
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.spec import first_line
from orchestrator.training.formats import Message


class TokenCounter:
    """Counts with a model's tokenizer and chat template.

    verl renders a prompt for PPO at once, and a conversation for SFT turn by turn, which can be longer (a template may
    add something to each answer that stands alone); what it would refuse there is counted in the same way here.
    """

    def __init__(self, model: str, *, prompt: bool) -> None:
        from verl.utils.tokenizer import chat_template  # seconds

        self._tokenizer = _load(model)
        self._prompt = prompt
        default_system, _ = chat_template.extract_system_prompt_and_generation(self._tokenizer)
        self._default_system = len(default_system)  # tokens that a template puts before every conversation

    def count(self, conversations: list[list[Message]]) -> list[int | None]:
        """The length of each in tokens; None where the template refuses it."""
        if not conversations:
            return []
        rendered = [self._render(messages) for messages in conversations]
        bounds = [0, *accumulate(len(texts or ()) for texts in rendered)]
        texts = [text for parts in rendered if parts for text in parts]
        encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [
            None if parts is None else sum(map(len, encoded[start:end])) - self._repeated(messages)
            for messages, parts, (start, end) in zip(conversations, rendered, pairwise(bounds), strict=True)
        ]

    def _render(self, messages: list[Message]) -> list[str] | None:
        from jinja2 import TemplateError
        from verl.utils.tokenizer.chat_template import apply_chat_template

        groups = [messages] if self._prompt else [[message] for message in messages]
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": self._prompt}
        try:
            return [str(apply_chat_template(self._tokenizer, group, **options)) for group in groups]
        except (TemplateError, TypeError, ValueError):
            return None

    def _repeated(self, messages: list[Message]) -> int:
        """Tokens of the template's own system prompt, of which verl keeps only the one before the first turn."""
        return 0 if self._prompt else self._default_system * sum(turn["role"] != "system" for turn in messages[1:])


def _load(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot load the tokenizer of {model}: {first_line(error)}") from None
    if not tokenizer.chat_template:
        raise SpecError(
            f"the tokenizer of {model} has no chat template, which turns messages into text. Expected a model that was "
            "tuned for chat, or a folder with that model's tokenizer and a chat_template.jinja"
        )
    return tokenizer
