"""Lengths of conversations in tokens, exactly as verl's data sets build them."""

from itertools import accumulate, pairwise
from typing import Any

from cluster.files import expanded
from orchestrator.errors import SpecError
from orchestrator.spec import first_line
from orchestrator.training.data.cells import shown
from orchestrator.training.data.turns import Message


class TokenCounter:
    """Counts with a model's tokenizer and chat template.

    verl renders a prompt for PPO at once, and a conversation for SFT turn by turn, which can be longer (a template may
    add something to each answer that stands alone); what it would refuse there is counted in the same way here.
    Raises SpecError where there is no template that verl can train with.
    """

    def __init__(self, model: str, *, prompt: bool) -> None:
        self._tokenizer = _load(model)
        self._prompt = prompt
        # Tokens that a template puts before every conversation. verl's PPO does not ask for them.
        self._default_system = 0 if prompt else _count_default_system(self._tokenizer, model)

    def count(self, conversations: list[list[Message]]) -> list[int | str]:
        """The length of each in tokens, or what the template says against it."""
        if not conversations:
            return []
        rendered = [self._render(messages) for messages in conversations]
        bounds = [0, *accumulate(0 if isinstance(parts, str) else len(parts) for parts in rendered)]
        texts = [text for parts in rendered if not isinstance(parts, str) for text in parts]
        encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [
            parts if isinstance(parts, str) else sum(map(len, encoded[start:end])) - self._repeated(messages)
            for messages, parts, (start, end) in zip(conversations, rendered, pairwise(bounds), strict=True)
        ]

    def _render(self, messages: list[Message]) -> list[str] | str:
        """The texts that verl would tokenize, or the template's complaint."""
        from verl.utils.tokenizer.chat_template import apply_chat_template

        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": self._prompt}
        try:
            if self._prompt:  # without verl's second try, which puts an empty turn before a prompt that was refused
                return [str(self._tokenizer.apply_chat_template(messages, **options))]
            return [str(apply_chat_template(self._tokenizer, [message], **options)) for message in messages]
        except Exception as error:  # noqa: BLE001 - a template is a program, and can end in any error
            return _complaint(error)

    def _repeated(self, messages: list[Message]) -> int:
        """Tokens of the template's own system prompt, of which verl keeps only the one before the first turn."""
        return self._default_system * sum(turn["role"] != "system" for turn in messages[1:])


def is_here(model: str) -> bool:
    """Whether a model's tokenizer can be loaded without the internet."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if expanded(model).exists():
        return True
    try:
        return isinstance(try_to_load_from_cache(model, "tokenizer_config.json"), str)
    except HFValidationError:  # a path, of which nothing is there yet
        return False


def _count_default_system(tokenizer: Any, model: str) -> int:
    """verl finds them by rendering two user's turns in a row, which strict templates refuse. Raises SpecError."""
    from verl.utils.tokenizer import chat_template  # seconds

    try:
        default_system, _ = chat_template.extract_system_prompt_and_generation(tokenizer)
    except Exception as error:
        raise SpecError(
            f"verl's SFT cannot train with the chat template of {model}: it renders two user turns in a row to find "
            f"what the template adds, and the template ends in {_complaint(error)}. Give the model's folder a "
            "chat_template.jinja that takes any order of roles; PPO works with this one"
        ) from error
    return len(default_system)


def _complaint(error: Exception) -> str:
    return shown(f"{type(error).__name__}/ {first_line(error)}").replace("/", ":", 1)


def _load(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # broken files end in errors of all kinds, those of the Rust library among them
        raise SpecError(f"cannot load the tokenizer of {model}: {first_line(error)}") from error
    if not tokenizer.chat_template:
        raise SpecError(
            f"the tokenizer of {model} has no chat template, which turns messages into text. Expected a model that was "
            "tuned for chat, or a folder with that model's tokenizer and a chat_template.jinja"
        )
    return tokenizer
