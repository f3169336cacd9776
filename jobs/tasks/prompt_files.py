"""Reads prompts from files."""

import hashlib
import os
from pathlib import Path

PROMPTS = Path(__file__).parent / "prompts"


def load_prompt(name_or_path: str | Path) -> tuple[str, str]:
    """A prompt's text (outer white space removed) and its SHA-256: a shipped file by its name, or any file by path.

    Raises ValueError when it does not exist, is empty or is not UTF-8 text.
    """
    shipped = PROMPTS / Path(name_or_path).name
    given = Path(os.path.expanduser(name_or_path))  # noqa: PTH111 - which leaves a user that there is not as it is
    path = shipped if str(name_or_path) == shipped.name and shipped.is_file() else given
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the prompt file {path} is not UTF-8 text") from None
    except OSError as error:
        names = ", ".join(sorted(file.name for file in PROMPTS.glob("*.txt")))
        raise ValueError(
            f"cannot read the prompt file {path} ({error.strerror}); the shipped ones are {names}"
        ) from None
    if not text:
        raise ValueError(f"the prompt file {path} is empty")
    return text, prompt_digest(text)


def prompt_digest(text: str) -> str:
    """A prompt's SHA-256; "" for no prompt."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
