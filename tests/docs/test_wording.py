"""The house rules for words (CONTRIBUTING.md) that a search can check: in messages, docstrings, comments and pages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("cluster", "orchestrator", "jobs", "requirements", "docs", "conf")
DATA = ("conf/demo", "jobs/demo/exam.py")  # texts for models
RULES = {
    '"is not a", never "is no"': r"(?<!\bthere) (?:is|are) no (?!longer\b|more\b)\w",
    "run, resume, continue or keep running, never go on": r"\b(?:go|goes|going|went|gone) on\b",
    "run a command, never give it": r"\bgives? the (?:same )?command\b",
}


def texts() -> Iterator[tuple[str, str]]:
    """Each file's text and, since literals side by side are one, each string of a Python file, with its place."""
    for path in sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*")):
        name = path.relative_to(REPOSITORY).as_posix()
        if path.suffix not in (".py", ".md", ".yaml") or name.startswith(DATA):
            continue
        text = path.read_text(encoding="utf-8")
        yield name, text
        for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{name}:{node.lineno}", node.value


@pytest.mark.parametrize("rule", RULES)
def test_the_words_of_the_house(rule: str) -> None:
    pattern = re.compile(RULES[rule], re.IGNORECASE)
    found = [f"{place}: {hit[0]}" for place, text in texts() for hit in pattern.finditer(" ".join(text.split()))]
    assert found == [], rule
