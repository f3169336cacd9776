"""What commands print: text from outside shown as text, and an output that cannot be written without a traceback."""

import codecs
import errno
import json
import os
import re
import select
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, TextIO

UNREAD = 141  # 128 + SIGPIPE, as a shell says of a program whose reader has left
UNWRITTEN = 4  # the output's disk is full

# What terminals obey instead of showing: control characters (C0, DEL, C1), line ends and directions of writing; and
# halves of surrogate pairs, which no encoding can write.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ASCII = {"±": "+/-", "×": "x", "–": "-", "—": "-", "−": "-", "→": "->", "…": "...", "·": "-", "°": " deg "}


def visible(text: object) -> str:
    """`text` on one line, with escapes in the place of all that a terminal would obey: names, details, messages.

    Brackets stay as they are: whoever prints with rich switches its markup off, or makes it a rich Text.
    """
    return _OBEYED.sub(_escape, str(text))


def visible_lines(text: object) -> str:
    """The same for a text of our own that may have several lines."""
    return "\n".join(map(visible, str(text).split("\n")))


def print_json(value: Any) -> None:
    """`value` as indented JSON that any terminal and encoding can show: what they cannot is escaped as in JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    # Within JSON's texts the first 32 are escaped already; its own line ends are not part of them.
    print(_OBEYED.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def guarded(main: Callable[[], int]) -> int:
    """The exit code of a command's `main`; standard output and error may be closed, full or of any encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="kosen.shown")
    try:
        try:
            return main()
        finally:
            for stream in filter(None, (sys.stdout, sys.stderr)):  # none, where it was closed before the start
                stream.flush()
    except OSError as error:
        unread = [stream for stream in (sys.stdout, sys.stderr) if stream and _has_no_reader(stream)]
        for stream in unread:
            _drop(stream)
        if isinstance(error, BrokenPipeError) and unread:
            return UNREAD
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and sys.stdout and _is_full(sys.stdout):
            _drop(sys.stdout)
            print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
            return UNWRITTEN
        raise


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _is_full(stream: TextIO) -> bool:
    """Detected by one more line end, after output that is cut short by then."""
    try:
        os.write(stream.fileno(), b"\n")
    except OSError:
        return True
    return False


def _drop(stream: TextIO) -> None:
    """Write what is left nowhere, or Python complains of it at its own end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """What the encoding of the output lacks, in ASCII: our own signs by their like, the others as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking), error.end


codecs.register_error("kosen.shown", _encodable)
