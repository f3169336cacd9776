"""Grades a function that a model wrote by its unit tests, each side in a sandbox of its own.

A submission cannot say of itself that it passed: the verdict comes from the test's process, which it never enters (see
`unit_test_program`). What remains possible for it: to return right values without computing them, for arguments that it
knows by heart; and, where isolation is `limits-only` and its user is that of the test's process, to tamper with that
process from outside.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.tasks import sandbox, unit_test_program
from jobs.tasks.sandbox import Isolation, Limits, Running, SandboxFailed

End = Literal["passed", "failed", "died", "timeout"]  # died: the process ended before the tests did
STARTING = 2.0  # seconds for two interpreters to start, beside the time for the tests
ATTEMPTS = 3  # to set up a sandbox: a machine may be short of processes for a moment
PAUSE = 1.0  # seconds between them
_PROGRAM = Path(unit_test_program.__file__)


@dataclass(frozen=True, slots=True)
class Grade:
    """What tests say of a submission. `isolation`: None where nothing had to run."""

    end: End
    told: str = ""  # the failing test's exception
    isolation: Isolation | None = None


def grade(code: str, test: str, entry_point: str, seconds: float, prelude: str) -> Grade:
    """Run `check(entry_point)` of `test` against `code`, all asserts together within `seconds`.

    Raises SandboxFailed where there is no sandbox.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _grade(code, test, entry_point, seconds, prelude)
        except SandboxFailed:
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE)
    raise AssertionError("unreachable")


def _grade(code: str, test: str, entry_point: str, seconds: float, prelude: str) -> Grade:
    limits = Limits(seconds=seconds + STARTING)
    to_code, to_test = os.pipe(), os.pipe()
    sides = (
        ({"prelude": prelude, "code": code}, (to_code[0], to_test[1])),
        ({"prelude": prelude, "test": test, "entry_point": entry_point}, (to_test[0], to_code[1])),
    )
    running: list[Running] = []
    try:
        try:
            for options, pipes in sides:
                running.append(_start(options, pipes, limits, silent="code" in options))
        finally:
            for number in (*to_code, *to_test):
                os.close(number)
        verdict = running[1].finish()
        said, _, told = verdict.output.decode(errors="replace").partition(" ")
        end: End = "timeout" if verdict.end == "timeout" else said if said in ("passed", "failed") else "died"  # type: ignore[assignment]
        if end == "died" and running[0].finish(STARTING).end == "timeout":
            end = "timeout"
        return Grade(end, told, verdict.isolation)
    finally:
        for one in running:
            one.stop()


def _start(options: dict[str, str], pipes: tuple[int, int], limits: Limits, silent: bool) -> Running:
    source = _PROGRAM.read_text(encoding="utf-8")
    return sandbox.start(source, json.dumps(options).encode(), keep=pipes, limits=limits, silent=silent)
