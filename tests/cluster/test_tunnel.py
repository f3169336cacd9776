"""The ssh line that `cluster tunnel` prints, as ssh itself understands it."""

import shutil
import subprocess
from typing import Any

import pytest

from cluster.commands.tunnel import tunnel_lines
from cluster.state import ClusterState, token_path
from tests.support.scripted_cluster import TOKEN, Answering


def ssh_line(state: ClusterState, login_host: str | None) -> str:
    return next(line.strip() for line in tunnel_lines(state, login_host) if line.strip().startswith("ssh "))


def parsed_by_ssh(line: str) -> dict[str, list[str]]:
    """What the real ssh understands by a command line, without connecting."""
    options = dict[str, list[str]]()
    words = line.split()
    done = subprocess.run([words[0], "-G", "-F", "/dev/null", *words[1:]], capture_output=True, text=True, check=True)
    for option in done.stdout.splitlines():
        key, _, value = option.partition(" ")
        options.setdefault(key, []).append(value)
    return options


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh")
@pytest.mark.parametrize(
    ("changes", "login_host", "expected"),
    [
        (
            {"dashboard_url": "http://10.0.0.1:20001"},
            "me@login.example",
            ("me", "login.example", None, ["8265 [10.0.0.1]:20001", "8000 [10.0.0.1]:20009"]),
        ),
        (
            {"dashboard_url": "http://[fd00::1]:20001", "ray_address": "[fd00::1]:20000"},
            "me@login.example",
            ("me", "login.example", None, ["8265 [fd00::1]:20001", "8000 [fd00::1]:20009"]),
        ),
        (
            {"dashboard_url": "http://127.0.0.1:20001"},
            "me@login.example",
            ("you", "n1", "me@login.example", ["8265 [127.0.0.1]:20001", "8000 [10.0.0.1]:20009"]),
        ),
        (
            {"dashboard_url": "http://127.0.0.1:20001", "scheduler": "local", "host": "desk.example"},
            None,
            ("you", "desk.example", None, ["8265 [127.0.0.1]:20001", "8000 [127.0.0.1]:20009"]),
        ),
    ],
)
def test_ssh_understands_the_tunnel(
    answering: Answering,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    login_host: str | None,
    expected: tuple[str, str, str | None, list[str]],
) -> None:
    monkeypatch.setenv("LOGNAME", "you")
    state = answering([], ports={"dashboard": 20001, "serve": 20009}, **changes)
    options = parsed_by_ssh(ssh_line(state, login_host))
    jump = options.get("proxyjump", [None])[0]
    assert (options["user"][0], options["hostname"][0], jump, options["localforward"]) == expected
    assert options["exitonforwardfailure"] == ["yes"]


def test_the_tunnel_tells_where_the_token_lies_and_not_what_it_is(answering: Answering) -> None:
    text = "\n".join(tunnel_lines(answering([]), "login.example"))
    assert str(token_path("c")) in text and TOKEN not in text
    assert "RAY_ADDRESS=http://localhost:8265" in text and "RAY_AUTH_MODE=token" in text
