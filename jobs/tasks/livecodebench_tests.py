"""LiveCodeBench's tests: how they are packed, how a program is run on one, and when its output is right.

A program is a real process with real input: what the original runs inside its own process with a patched `sys.stdin`
and so fails though it is right (`sys.stdin.buffer`, `open(0)`, threads) passes here; nothing else differs.
"""

import base64
import binascii
import io
import json
import pickle
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from jobs.tasks import call_program, sandbox
from jobs.tasks.code_blocks import STAR_MODULES, STAR_PRELUDE
from jobs.tasks.sandbox import Isolation, Limits, Outcome, SandboxFailed

Result = Literal["passed", "wrong", "timeout", "runtime error"]
SECONDS = 6.0  # for one test
STARTING = 1.0  # seconds for an interpreter to start, beside the time for a test
LARGEST = 2**30  # bytes of one item's unpacked tests
LEAST_OUTPUT = 2**20  # bytes; a right output may be longer
ATTEMPTS = 3  # to set up a sandbox: a machine may be short of processes for a moment
PAUSE = 1.0  # seconds between them
PRELUDE = STAR_PRELUDE + "".join(f"import {name}\n" for name in STAR_MODULES) + "sys.setrecursionlimit(50000)\n"
_CALL_PROGRAM = Path(call_program.__file__)


@dataclass(frozen=True, slots=True)
class Case:
    """`input` goes to standard input; for a call each of its lines is an argument as JSON, and `output` is JSON."""

    input: str
    output: str


class _TextUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, expected text alone")


def unpack(text: str) -> list[Case]:
    """Tests out of JSON, or of the base64 of a zlib of a pickle of JSON. Raises ValueError with what is wrong."""
    try:
        rows = json.loads(text if text.lstrip()[:1] == "[" else _unpickled(text))
        return [Case(_text(row, "input"), _text(row, "output")) for row in rows]
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError) as error:
        raise ValueError(f"cannot be unpacked: {error}") from None
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"is not a list of tests with input and output: {error!r}") from None


def _unpickled(text: str) -> str:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(base64.b64decode(text, validate=True), LARGEST)
    if not unpacker.eof:
        raise ValueError(f"is cut short, or longer than {LARGEST} bytes")
    value = _TextUnpickler(io.BytesIO(plain)).load()
    if not isinstance(value, str):
        raise ValueError(f"holds a {type(value).__name__}, expected text")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise TypeError(f"{name} is a {type(row[name]).__name__}, expected text")
    return str(row[name])


@dataclass(frozen=True, slots=True)
class Report:
    """How a program did: tests passed, how the first other one ended (`passed`: there was none), and how it ran."""

    passed: int
    end: Result
    isolation: Isolation | None


def grade(code: str, tests: Sequence[Case], function: str) -> Report:
    """Run a program on tests until one fails; `function` is called, or "": it reads and writes.

    Raises SandboxFailed where there is no sandbox.
    """
    isolation: Isolation | None = None
    for number, test in enumerate(tests):
        outcome = _run(*_program(code, test, function), limits=_limits(test))
        isolation = outcome.isolation
        end = _result(outcome, test, function)
        if end != "passed":
            return Report(number, end, isolation)
    return Report(len(tests), "passed", isolation)


def _program(code: str, test: Case, function: str) -> tuple[str, bytes]:
    """The program for a sandbox, and its standard input."""
    if function:
        options = {"prelude": PRELUDE, "code": code, "name": function, "input": test.input}
        return _CALL_PROGRAM.read_text(encoding="utf-8"), json.dumps(options).encode()
    # compiled apart, so that `from __future__` may be its first line
    return f"{PRELUDE}exec(compile({code!r}, 'main.py', 'exec', dont_inherit=True))\n", test.input.encode()


def _limits(test: Case) -> Limits:
    return Limits(seconds=SECONDS + STARTING, output=max(LEAST_OUTPUT, 2 * len(test.output.encode())))


def _run(source: str, stdin: bytes, limits: Limits) -> Outcome:
    for _ in range(ATTEMPTS - 1):
        try:
            return sandbox.run(source, stdin, limits)
        except SandboxFailed:
            time.sleep(PAUSE)
    return sandbox.run(source, stdin, limits)


def _result(outcome: Outcome, test: Case, function: str) -> Result:
    if outcome.end == "timeout":
        return "timeout"
    if outcome.end == "flooded":
        return "wrong"
    if outcome.code != 0:
        return "runtime error"
    found = outcome.output.decode(errors="replace")
    same = same_result if function else same_output
    return "passed" if same(found, test.output) else "wrong"


def same_result(found: str, expected: str) -> bool:
    """Whether two pieces of JSON are equal; a tuple has become a list by then."""
    try:
        return bool(json.loads(found) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def same_output(found: str, expected: str) -> bool:
    """Whether two texts have the same lines, but for outer white space; lines of numbers by their values (5 is 5.0)."""
    ours, right = ([line.strip() for line in text.strip().split("\n")] for text in (found, expected))
    return len(ours) == len(right) and all(map(_same_line, ours, right))


def _same_line(found: str, expected: str) -> bool:
    if found == expected:
        return True
    try:
        numbers = [[Decimal(word) for word in line.split()] for line in (found, expected)]
        return numbers[0] == numbers[1]
    except InvalidOperation:
        return False
