"""~/.kosen/secrets.env is read as shells and other tools read such files."""

import os
from pathlib import Path

import pytest

from orchestrator import secrets
from orchestrator.errors import SpecError


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"A=1\n", "1"),
        (b"\xef\xbb\xbfA=1\n", "1"),  # a byte order mark, as editors on Windows write it
        (b'A="1" # mine\n', "1"),
        (b"A='1' # mine\n", "1"),
        (b"A=1 # mine\n", "1"),
        (b"A=1#2\n", "1#2"),
        (b'A="1 # 2"\n', "1 # 2"),
        (b"export A=1\r\n", "1"),
        (b"A = 1\n", "1"),
        (b"  A=1\n", "1"),
        (b"A=sk-1=2==\n", "sk-1=2=="),
        (b"A=$HOME\n", "$HOME"),
        (b"A=1\nA=2\n", "2"),
        (b"# A=1\n", None),
        (b"A=\n", None),
        (b"A\n", None),
        (b'A=""\n', None),
        (b"no line of that kind\nA=1", "1"),
    ],
)
def test_a_line_gives_its_value(
    content: bytes, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    monkeypatch.delenv("A", raising=False)
    (tmp_path / "secrets.env").write_bytes(content)
    (tmp_path / "secrets.env").chmod(0o600)
    assert secrets.find("A") == found


def test_a_file_that_is_no_text_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    (tmp_path / "secrets.env").write_bytes(b"A=\xff\xfe")
    (tmp_path / "secrets.env").chmod(0o600)
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        secrets.find("A")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "zero byte"])
def test_what_is_no_file_of_secrets_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    path = tmp_path / "secrets.env"
    if kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"A=x\0y\n")
        path.chmod(0o600)
    with pytest.raises(SpecError, match=r"secrets\.env"):
        secrets.load_into_environment()
