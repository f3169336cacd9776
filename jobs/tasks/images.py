"""A row's image, in the forms in which data sets hold one, as a chat request takes it."""

import base64
import io
from collections.abc import Mapping
from typing import Any

# What tools write into a text column where there is no picture.
NOTHING = ("", "nan", "none", "null", "undefined", "false", "-", "<na>", "n/a", "[]", "{}")
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
}
EXPECTED = "expected a data URI (data:image/…), a web address, the picture's bytes or nothing"


def as_uri(value: Any) -> str:
    """A data URI or web address; "" for no picture (null, not-a-number, "nan", [], a struct of nulls).

    Bytes, those in Hugging Face's struct {bytes, path} too, and decoded pictures become data URIs. Raises ValueError,
    the end of a sentence, for all else: a path and bare base64 are what no server understands.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if (
        value is None or value is False or value == [] or value == {} or value != value
    ):  # not-a-number differs from itself
        return ""
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        return _of_struct(value)
    if isinstance(value, Mapping) and value.keys() == {"url"}:  # as a chat request has it
        return as_uri(value["url"])
    if isinstance(value, bytes | bytearray):
        return _of_bytes(bytes(value), "bytes")
    if hasattr(value, "save"):  # a picture that the hub's client has decoded
        file = io.BytesIO()
        value.save(file, "PNG")
        return _of_bytes(file.getvalue(), "a picture")
    raise ValueError(f"is a {type(value).__name__}, {EXPECTED}")


def _of_text(text: str) -> str:
    if text.lower() in NOTHING:
        return ""
    if text[:11].lower().startswith(("data:image/", "http://", "https://")):
        return text
    raise ValueError(f"is {text[:40]!r}{'…' if len(text) > 40 else ''}, {EXPECTED}")


def _of_struct(struct: Mapping[str, Any]) -> str:
    content, path = struct.get("bytes"), struct.get("path")
    if isinstance(content, bytes):
        return _of_bytes(content, "a dict whose bytes")
    if content is None and path is None:
        return ""
    what = "holds no bytes" if content is None else f"holds a {type(content).__name__} for bytes"
    raise ValueError(f"is a dict that {what}, {EXPECTED}")


def _of_bytes(content: bytes, what: str) -> str:
    kind = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise ValueError(f"is {what} in no known format (PNG, JPEG, GIF, WebP, BMP, TIFF), {EXPECTED}")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
