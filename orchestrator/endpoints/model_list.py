"""What a server's list of models says, in the forms that servers give it, and whether it names a model.

The list is a hint and never the truth: proxies list patterns, hosts list what they sell and not what was deployed, some
list file paths. Whoever reads it lets the first call decide where a model is not on it.
"""

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

# Where the list is: OpenAI and nearly all others; Gemini, Ollama and Cohere; gateways of their own.
_LISTS = ("data", "models", "result", "items", "model_list")
_NAMES = ("id", "name", "model", "model_name")  # what an entry calls itself
_MOST_WRAPPERS = 3  # objects around a list
_PREFIX = "models/"  # Gemini's, which it takes and leaves out as one likes


def read_ids(content: bytes) -> tuple[str, ...] | None:
    """The names that a list of models holds, without entries that say none; None for JSON that holds no list.

    Raises ValueError for what is not JSON. An empty page is an empty list.
    """
    if not content.strip():
        return ()
    try:
        body = json.loads(content)
    except RecursionError:
        raise ValueError("brackets in brackets without an end") from None
    for depth in range(_MOST_WRAPPERS):
        if isinstance(body, dict):
            key = next((key for key in _LISTS if key in body), None)
            if key is None or body[key] is None:  # Ollama without models: null
                return () if key or not depth else None
            body = body[key]
    if not isinstance(body, list):
        return None
    return tuple(name for name in map(_name, body) if name)


def _name(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
    return entry if isinstance(entry, str) else None


def served_name(model: str, ids: Iterable[str]) -> str | None:
    """The name to ask for `model` by, None where a list does not have it.

    A variant of a listed model (`:free`, `:floor`, a version) is asked for as it is given, and so is what fits a
    pattern. Other case gives way to the list's, unless several names differ by that alone.
    """
    listed = set(ids)
    if model in listed:
        return model
    if f"{model}:latest" in listed:  # how Ollama lists a model that was asked for without a tag
        return f"{model}:latest"
    bare = {name.removeprefix(_PREFIX) for name in listed}
    wanted = model.removeprefix(_PREFIX)
    if wanted in bare or wanted.rpartition(":")[0] in bare:
        return model
    if any("*" in name and fnmatchcase(model, name) for name in listed):
        return model
    same = [name for name in listed if name.removeprefix(_PREFIX).casefold() == wanted.casefold()]
    return same[0] if len(same) == 1 else None
