"""README and docs/: sizes, links, the pages that are generated, and the messages that troubleshooting explains."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from docs.generate import REFERENCE, pages

FOLDERS = ("benchmarks", "cluster", "conf", "docs", "jobs", "orchestrator", "tests")
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", *(f"{name}/README.md" for name in FOLDERS))]
PAGES += sorted((REPOSITORY / "docs").glob("*/*.md"))
ROW = re.compile(r"^\| (.+?) \| ", re.MULTILINE)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_readme_is_short() -> None:
    assert (REPOSITORY / "README.md").stat().st_size <= 6000


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name not in ("benchmarks", "docs")])
def test_a_folder_is_introduced_in_few_lines(folder: str) -> None:
    assert len(read(REPOSITORY / folder / "README.md").splitlines()) <= 25


@pytest.mark.parametrize("package", ["cluster", "orchestrator", "jobs"])
def test_every_room_is_introduced(package: str) -> None:
    text, rooms = read(REPOSITORY / package / "README.md"), (REPOSITORY / package).glob("*/__init__.py")
    assert [room.parent.name for room in rooms if f"`{room.parent.name}/`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(REPOSITORY)
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading. There are {anchors(target)}"


def anchors(page: Path) -> list[str]:
    """The headings as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_page_is_listed() -> None:
    index = read(REPOSITORY / "docs" / "README.md")
    for page in (REPOSITORY / "docs").glob("*/*.md"):
        assert f"({page.relative_to(REPOSITORY / 'docs').as_posix()})" in index


def test_the_reference_is_what_the_code_says() -> None:
    made = pages()
    for name, text in made.items():
        assert read(REFERENCE / name) == text, f"docs/reference/{name} is old. Give: python -m docs.generate"
    keys = made["keys.md"] + made["site-profile.md"]
    unknown = [line for line in keys.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not unknown, "say what these keys mean, in a comment beside the field"


@cache
def texts() -> tuple[str, ...]:
    """All texts in the code, with … for what is filled in."""
    return tuple(
        text
        for package in ("cluster", "orchestrator", "jobs")
        for module in (REPOSITORY / package).rglob("*.py")
        for text in _texts(ast.parse(read(module)))
    )


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def messages() -> list[str]:
    cells = ROW.findall(read(REPOSITORY / "docs/how-to/troubleshooting.md"))
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("message", messages())
def test_a_message_that_is_explained_is_one_of_the_code(message: str) -> None:
    wanted = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(wanted.search(text) for text in texts()), f"no message has {message!r}"
