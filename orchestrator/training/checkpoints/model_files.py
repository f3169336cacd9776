"""Names of the files that a Hugging Face folder has beside its weights."""

from collections.abc import Iterable

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model")


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether one of these files holds a vocabulary; `tokenizer_config.json` alone does not."""
    return any(name in TOKENIZERS or name.endswith(".tiktoken") for name in names)
