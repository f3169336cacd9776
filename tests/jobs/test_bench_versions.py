"""The versions in a benchmark's report are those that are imported, whatever else lies on the path."""

import sys
from pathlib import Path

import pytest

from jobs.benchmarking.parts import environment


@pytest.fixture(autouse=True)
def only_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", {"twice": ("twice", "twice-cpu")})
    monkeypatch.delitem(sys.modules, "twice", raising=False)


def install(folder: Path, version: str | None, *metadata: str, name: str = "twice") -> str:
    """A copy of the module in `folder`, with metadata that say these versions."""
    (folder / "twice").mkdir(parents=True)
    line = f"__version__ = {version!r}\n" if version else ""
    (folder / "twice" / "__init__.py").write_text(line)
    for told in metadata:
        info = folder / f"{name.replace('-', '_')}-{told}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {told}\n")
    return str(folder)


def test_of_two_copies_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (install(tmp_path / version, version, version) for version in ("2.11.0", "2.13.0"))
    monkeypatch.syspath_prepend(old)
    monkeypatch.syspath_prepend(new)
    assert environment._versions() == {"twice": "2.13.0"}
    assert "twice" not in sys.modules  # to import it takes seconds


@pytest.mark.parametrize("metadata", [(), ("2.11.0", "2.13.0")], ids=["a source tree", "the remains of an update"])
def test_where_the_metadata_do_not_tell_the_module_does(
    metadata: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path / "b", "2.11.0", "2.11.0"))
    monkeypatch.syspath_prepend(install(tmp_path / "a", "2.13.0", *metadata))
    assert environment._versions() == {"twice": "2.13.0"}


def test_a_package_may_have_another_name_than_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "1.0", "1.0", name="twice-cpu"))
    assert environment._versions() == {"twice-cpu": "1.0"}


@pytest.mark.parametrize("content", [None, "import no_such_module_at_all"])
def test_what_is_not_there_or_cannot_be_imported_is_left_out(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment._versions() == {}
    monkeypatch.syspath_prepend(install(tmp_path, None))
    if content:
        (tmp_path / "twice" / "__init__.py").write_text(content)
    assert environment._versions() == {}
