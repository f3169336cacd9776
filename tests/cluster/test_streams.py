"""What commands print, on terminals of any encoding, into pipes that nobody reads and onto full disks."""

import json
import os
import subprocess
import sys

import pytest

from cluster.streams import visible, visible_lines

COMMAND = """
import sys
from orchestrator.errors import SpecError, run_command
from orchestrator.console import say
def main():
    {body}
    return {code}
run_command(main)
"""


def shell(body: str, line: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    program = COMMAND.format(body=body, code=code)
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 東京 ± [/bold] :smile:", "plain 東京 ± [/bold] :smile:"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\rb\tc\x00\x7f\x9b", "a\\x0db\\x09c\\x00\\x7f\\x9b"),
        ("\u202egnp.exe\u2066\u200f\u2028", "\\u202egnp.exe\\u2066\\u200f\\u2028"),
        ("half \ud83d", "half \\ud83d"),
        ("two\nlines", "two\\x0alines"),
        ("👩\u200d🔬 e\u0301", "👩\u200d🔬 e\u0301"),
    ],
)
def test_what_terminals_obey_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible_lines(f"first\n{text}") == f"first\n{shown}".replace("\\x0a", "\n")


MUCH = "print('x' * 200, *range(100_000), sep='\\n')"


@pytest.mark.parametrize("body", [MUCH, "print('short')"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("reader", ["head -n 1 >&2", "true"])
def test_a_reader_that_leaves_ends_the_command_quietly(body: str, reader: str, unbuffered: str) -> None:
    line = f'("$1" -c "$2") | {reader}; exit ${{PIPESTATUS[0]}}'
    done = shell(body, line, code=3, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 141 or (body != MUCH and done.returncode == 3)  # it may all have been read
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_lost_standard_error_too() -> None:
    body = "[say(str(n) * 100) for n in range(5000)]"
    done = shell(body, '("$1" -c "$2" 2>&1 >/dev/null) | true; exit ${PIPESTATUS[0]}')
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_not_hidden() -> None:
    done = shell("raise BrokenPipeError('a socket of its own')", '"$1" -c "$2"')
    assert done.returncode == 1 and "a socket of its own" in done.stderr


def test_a_full_disk_under_the_output_is_a_sentence() -> None:
    done = shell(MUCH, '"$1" -c "$2" > /dev/full')
    assert done.returncode == 4
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(closed: str) -> None:
    done = shell("print('x'); say('y')", f'"$1" -c "$2" {closed}', code=3)
    assert done.returncode == 3 and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    body = "print('1 ± 2 → 東京 \\ud83d'); say('± 東京')"
    done = shell(body, '"$1" -c "$2"', PYTHONIOENCODING=encoding)
    lacking = "1 +/- 2 -> \\u6771\\u4eac" if encoding == "ascii" else "1 ± 2 → 東京"
    assert (done.returncode, done.stdout) == (0, f"{lacking} \\ud83d\n") and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_exact_and_obeyed_by_nobody(encoding: str) -> None:
    value = {"é 東京 😀": "\x9b2J \x1b[31m \u202e ± \x7f"}
    body = f"from cluster.streams import print_json; print_json({value!a})"
    done = shell(body, '"$1" -c "$2"', PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout) == value
    assert all(sign.isprintable() or sign == "\n" for sign in done.stdout)
    assert ("東京" in done.stdout) == (encoding == "utf-8")


def test_errors_and_notes_are_shown_as_text() -> None:
    done = shell("say('[/bold] \\x1b[2J :smile:'); raise SpecError('bad \\x1b[31m [/x]')", '"$1" -c "$2"')
    assert done.returncode == 2
    assert done.stderr == "[/bold] \\x1b[2J :smile:\nerror: bad \\x1b[31m [/x]\n"


def test_the_clusters_commands_too() -> None:
    line = f"({sys.executable} -m cluster status --json) | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Errno" not in done.stderr
