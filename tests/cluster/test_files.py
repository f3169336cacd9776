"""Files that take the place of others: whole or not at all, with their mode from the first byte, and nothing left."""

from pathlib import Path

import pytest

from cluster.files import replace, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    with replacing(path, 0o600) as file:
        file.write("after")
        (draft,) = set(tmp_path.iterdir()) - {path}
        assert draft.name.startswith(".x.json.") and draft.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == "before"
    assert (path.read_text(), names(tmp_path)) == ("after", ["x.json"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_what_fails_leaves_what_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    with pytest.raises((KeyboardInterrupt, OSError, ValueError)), replacing(path, 0o600) as file:
        file.write("half")
        raise error
    assert (path.read_text(), names(tmp_path)) == ("before", ["x.json"])


def test_a_folder_that_is_made_is_private(tmp_path: Path) -> None:
    replace(tmp_path / "c" / "token", "secret", 0o600)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "c", tmp_path / "c" / "token")] == [0o700, 0o600]


def test_a_draft_by_name_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".x.json.partial").write_text("what a killed writer left, and longer")
    with replacing(tmp_path / "x.json", 0o600, draft="partial", errors="backslashreplace") as file:
        file.write("\ud83d")
    assert (tmp_path / "x.json").read_text() == "\\ud83d"
    assert names(tmp_path) == ["x.json"]
