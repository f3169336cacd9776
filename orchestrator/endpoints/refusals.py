"""What a server says when it refuses: the sentence, the status and the names in the body of an error.

Errors come in the shapes of OpenAI, vLLM, sglang, FastAPI, Mistral, Gemini, OpenRouter, Anthropic, Ollama and of
proxies that wrap them; one walk reads them all. An error within a 200 has the status that it states.
"""

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.endpoints.bodies import decode, json_text, read_body, writable
from orchestrator.secrets import strike_out

DETAIL_LIMIT = 1000  # characters of a server's message that a record keeps
_MOST_PARTS = 60  # values that are read in one error; a proxy of a proxy needs 6
_MESSAGE_KEYS: tuple[str, ...] = ("error", "message", "detail", "msg", "error_msg", "error_message")
_MESSAGE_KEYS += ("errorMessage", "errors", "base_resp", "status_msg", "title", "description")
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_status", "http_code", "error_code", "errorCode")
_NAME_KEYS = ("code", "type", "status", "reason")
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.I)
_TITLE = re.compile(r"<title[^>]*>([^<]{1,300})", re.I)
_STATUS_IN_WORDS = re.compile(r"^([45]\d\d)\b|\b(?:http|error code|status(?: code)?)[ :=/]{0,3}([45]\d\d)\b", re.I)
# What codes and types mean whose numbers are not given. Compared without case and underscores, the first that fits.
_MEANINGS = tuple(
    (status, re.compile(words))
    for status, words in (
        (402, r"insufficient\w*(quota|balance|credit|fund)|paymentrequired|billing|arrear"),
        (429, r"ratelimit|toomanyrequests|resourceexhausted|throttl|quotaexceeded"),
        (401, r"authentication|unauthenticated|unauthorized|apikey"),
        (403, r"permission|forbidden"),
        (404, r"notfound"),
        (503, r"overloaded|unavailable"),
        (504, r"timeout|deadline"),
        (400, r"invalidrequest|badrequest|invalidargument|contextlength|contentfilter|unsupported|precondition"),
        (500, r"servererror|internal|apierror|upstream"),
    )
)
_TOLD_OTHERWISE = (402, 429)  # what a body may say against the status of its response: some send these as 400 or 500
_FIRST_WORDS = 80  # characters, before a server quotes the request
_RATE_LIMIT = re.compile(r"rate.?limit|too many requests", re.I)
_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the server reported, whether with a status of its own or within a 200."""

    status: int
    message: str  # one line, at most DETAIL_LIMIT characters
    param: str = ""  # of our request, where the server names it
    page: bool = False  # a page of HTML, from something that stands before the API
    within: bool = False  # a 200: whoever answers has let us in
    retry_after: str | None = None

    @property
    def detail(self) -> str:
        return f"{self.status} {self.message}"


def read_refusal(status: int, content: bytes, retry_after: str | None = None) -> Refusal:
    """Read the body of an error that came with `status`."""
    told = _read(content)
    meant = told.status()
    if status in (400, 403) and _RATE_LIMIT.search(told.sentence()[:_FIRST_WORDS]):
        meant = 429
    return Refusal(
        meant if meant in _TOLD_OTHERWISE else status,
        told.sentence() or _raw(content),
        told.param,
        page=bool(_PAGE.match(content)),
        retry_after=retry_after,
    )


def refusal_within(error: Any) -> Refusal | None:
    """The refusal that an error in a 200 reports, None where it reports no status."""
    told = _Told()
    told.walk(error)
    status = told.status() or (429 if _RATE_LIMIT.search(told.sentence()) else None)
    return Refusal(status, told.sentence(), told.param, within=True) if status else None


def read_message(content: bytes) -> str:
    """The server's sentence in the body of an error; the body itself, on one line, where it has none."""
    return _read(content).sentence() or _raw(content)


def one_line(text: str) -> str:
    """A server's text as records and messages hold it: no keys, no line breaks, DETAIL_LIMIT characters."""
    return writable(strike_out(" ".join(text.split())))[:DETAIL_LIMIT]


class _Told:
    """What one error says, gathered from its parts."""

    def __init__(self) -> None:
        self.param = ""
        self._sentences: list[str] = []
        self._names: list[str] = []
        self._statuses: list[int] = []
        self._left = _MOST_PARTS

    def walk(self, value: Any) -> None:
        self._left -= 1
        if self._left < 0:
            return
        if isinstance(value, str):
            self._take_text(value)
        elif isinstance(value, list):
            for item in value:
                self.walk(item)
        elif isinstance(value, dict):
            self._take_object(value)
        elif value is not None:
            self._sentences.append(json_text(value))

    def _take_text(self, text: str) -> None:
        """JSON within a text comes from a proxy that quotes the server behind it."""
        quoted = _try_decode(text) if text.lstrip().startswith(("{", "[{")) else None
        if quoted is None:
            self._sentences.append(text)
        else:
            self.walk(quoted)

    def _take_object(self, value: dict[str, Any]) -> None:
        self._names += [name for key in _NAME_KEYS if isinstance(name := value.get(key), str)]
        self._statuses += [status for key in _STATUS_KEYS if (status := _as_status(value.get(key)))]
        if isinstance(value.get("param"), str):
            self.param = self.param or value["param"]
        message = next(
            (value[key] for key in _MESSAGE_KEYS if value.get(key) not in (None, "", [], {}, False, True)), None
        )
        if message is None:
            self._sentences.append(json_text(value))
        elif isinstance(message, str) and isinstance(value.get("loc"), list):  # pydantic: where, and what
            self._sentences.append(f"{'.'.join(map(str, value['loc']))}: {message}")
        else:
            self.walk(message)
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):  # OpenRouter: the words of the provider
            self.walk(metadata["raw"])

    def status(self) -> int | None:
        """The HTTP status that is meant: 402 or 429 by a name, else as a number, by a name or within the sentence."""
        names = " ".join(map(_squeeze, self._names))
        named = next((status for status, words in _MEANINGS if words.search(names)), None)
        if named in _TOLD_OTHERWISE:
            return named
        in_words = _STATUS_IN_WORDS.search(self.sentence())
        return next(iter(self._statuses), None) or named or (int(in_words[1] or in_words[2]) if in_words else None)

    def sentence(self) -> str:
        return one_line(": ".join(dict.fromkeys(self._sentences)))


def _read(content: bytes) -> _Told:
    told = _Told()
    try:
        told.walk(read_body(content))
    except (ValueError, RecursionError, TypeError):  # no JSON, or brackets too deep to write
        return _Told()
    return told


def _raw(content: bytes) -> str:
    """The text of a body that is not JSON; of a page, its title."""
    text = content.decode(errors="replace").lstrip("\ufeff")
    title = _TITLE.search(text[:20_000]) if _PAGE.match(content) else None
    return one_line(title[1] if title else text)


def _try_decode(text: str) -> Any:
    try:
        return decode(text.encode())
    except (ValueError, RecursionError):
        return None


def _as_status(value: Any) -> int | None:
    """400 or "400", of the errors that HTTP knows; the numbers of a provider's own lie elsewhere."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None


def _squeeze(text: str) -> str:
    return _NOT_A_WORD.sub("", text).lower()
