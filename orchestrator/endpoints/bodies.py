"""From the bytes of a server's body to the JSON value in it, however it was sent.

Beside plain JSON: a byte order mark, other Unicode encodings, numbers that JSON does not know, raw line breaks in
texts, half an emoji, JSON within a JSON text, a list around the one object, and a stream of events that was not asked
for. What comes out can be written as JSON again.
"""

import json
import math
import re
from typing import Any

import orjson

THOUGHT_KEYS = ("reasoning", "reasoning_content", "thinking", "reasoning_details")  # the first is vLLM's today
STREAM_END = "[DONE]"
_LINE_END = re.compile(r"\r\n|\n|\r")  # not str.splitlines, which also splits at signs that a JSON text may hold
_MOST_LINES = 1000  # of one event; each is tried alone first
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_INTEGER = 18  # digits; longer ones become floats, as orjson reads them


def read_body(content: bytes) -> Any:
    """The value of a body. Raises ValueError for what is not JSON or a stream that was cut off, RecursionError for
    thousands of brackets."""
    try:
        value = decode(content)
    except ValueError:
        return _join_stream(content)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return decode(value.encode()) if isinstance(value, str) and value.lstrip().startswith("{") else value


def decode(content: bytes) -> Any:
    """The value of a JSON text. Half of an emoji, which orjson refuses to read and to write, becomes U+FFFD.

    Raises ValueError for what is not JSON, RecursionError for thousands of brackets.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content.decode(json.detect_encoding(content), errors="replace").lstrip("\ufeff")
        return _writable(json.loads(text, strict=False, parse_int=_integer))


def writable(text: str) -> str:
    """A text that can be written as JSON: half of an emoji becomes U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def json_text(value: Any) -> str:
    """The JSON text of what `decode` gave. Raises TypeError for hundreds of brackets."""
    return orjson.dumps(value).decode()


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _writable(value: Any) -> Any:
    """The value without what JSON has no word for: halves of emoji, NaN and infinities."""
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, dict):
        return {writable(key): _writable(item) for key, item in value.items()}
    return value


def _join_stream(content: bytes) -> dict[str, Any]:
    """One completion from server-sent events (or lines of JSON) that hold its pieces.

    An error that a stream reports is its result. Raises ValueError for a stream without an end.
    """
    joined = _Completion()
    for chunk in _chunks(content):
        if chunk == STREAM_END:
            joined.ended = True
        elif isinstance(chunk, dict):
            if chunk.get("error"):
                return chunk
            joined.add(chunk)
    return joined.body()


class _Completion:
    """The pieces of the first choice of a stream."""

    def __init__(self) -> None:
        self.ended = False
        self._pieces: dict[str, list[Any]] = {}
        self._finish: Any = None
        self._rest: dict[str, Any] = {}  # usage, fingerprint, code, message: what the chunks say beside their choices

    def add(self, chunk: dict[str, Any]) -> None:
        choices = chunk.get("choices")
        self._rest |= {key: value for key, value in chunk.items() if value is not None}
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        for key in ("content", "refusal", *THOUGHT_KEYS):
            piece = delta.get(key) if isinstance(delta, dict) else None
            if piece is not None:
                self._pieces.setdefault(key, []).extend(piece if isinstance(piece, list) else [piece])
        self._finish = choice.get("finish_reason") or self._finish
        self._rest |= {key: choice[key] for key in ("usage", "error") if choice.get(key)}

    def body(self) -> dict[str, Any]:
        if "choices" not in self._rest:
            if not self._rest:
                raise ValueError("neither JSON nor a stream")
            return self._rest
        if not (self.ended or self._finish):
            raise ValueError("the stream was cut off")
        message = {key: _joined(pieces) for key, pieces in self._pieces.items()}
        return self._rest | {"choices": [{"index": 0, "message": message, "finish_reason": self._finish}]}


def _joined(pieces: list[Any]) -> Any:
    return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else pieces


def _chunks(content: bytes) -> list[Any]:
    """The values of a stream's events, in order. Raises ValueError where one is not JSON."""
    chunks: list[Any] = []
    held: list[str] = []  # the lines of an event whose value goes over several
    for line in [*_LINE_END.split(content.decode(errors="replace").lstrip("\ufeff")), ""]:
        data = line[5:].strip() if line.startswith("data:") else line.strip() if line.startswith("{") else ""
        if data == STREAM_END:
            chunks.append(STREAM_END)
        elif data:
            try:
                chunks.append(decode(data.encode()))
            except ValueError:
                held.append(data)
                if len(held) > _MOST_LINES:
                    raise
        elif not line and held:
            chunks.append(decode("\n".join(held).encode()))
            held = []
    return chunks
