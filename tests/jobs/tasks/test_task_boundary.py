"""What belongs to one task stands in its own file; and records of before are found by what is there now."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from cluster.files import REPOSITORY
from jobs.exam.requests import Requests, row_of
from jobs.exam.spec import ExamSpec, judge_identity, load_judge_prompt
from jobs.tasks import hle
from jobs.tasks.task import Item
from orchestrator.records.types import digest
from orchestrator.serving.identity import Served

OWN = REPOSITORY / "jobs" / "tasks" / "hle.py"
# An example of a spec in help texts, and the default of the key `task`, which stands once.
ALLOWED = re.compile(r'conf/hle\.yaml|^"hle"$')
WORD = re.compile(r"(?<![a-z])hle(?![a-z])")


def mentions(path: Path) -> Iterator[str]:
    """Names and texts of a module's code that say `hle`; comments and docstrings are prose."""
    source = path.read_text(encoding="utf-8")
    prose = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            text = token.string.lower()
        elif token.type == tokenize.STRING and token.start[0] not in prose:
            text = ALLOWED.sub("", token.string)
        else:
            continue
        if WORD.search(text):
            yield f"{path.relative_to(REPOSITORY)}:{token.start[0]}: {text[:80]}"


def test_only_its_own_file_knows_hle() -> None:
    files = [path for room in ("jobs", "orchestrator", "cluster") for path in (REPOSITORY / room).rglob("*.py")]
    assert list(mentions(OWN)), "the search finds what it looks for"
    assert [found for path in files if path != OWN for found in mentions(path)] == []
    assert [path for path in files if WORD.search(path.stem) and path != OWN] == []
    default = re.compile(r'"hle"')
    assert [path.name for path in files if path != OWN and default.search(path.read_text())] == ["registry.py"]


ITEMS = [
    Item("q1", "What is 2 + 2?", "4", "exactMatch", "Math"),
    Item("q2", "Which one?\nA. x\nB. y", "B", "multipleChoice", "Physics"),
    Item("q3", "What is shown?", "a cat", "exactMatch", "Other", "data:image/png;base64,iVBORw0KGgo="),
]
SERVED: Served = {
    "model": {"name": "m", "revision": "r", "digest": "d"},
    "engine": None,
    "server": {"base_url": "http://s/v1", "version": "1"},
}
# Computed at commit 409d122, before there were tasks: what answers were asked with, and the keys of their records.
KEPT = {
    "plain": "e5df200b1776fb9f1f655513620b60db",
    "sampled": "7f675945215128f13bf2bf26da9a49d5",
    "judged": "652632e2934af403a0d19689a57cfd6c",
}
KEPT_MESSAGES = "6a80a0b8d812f10a13e4851490ed95ab"
KEPT_DATA = "8df478be30b5a7f4cec91ff10987f4c2"
KEPT_JUDGE = "7e8fb6c7b82a20f9f3177323970ac864"
KEPT_SCHEMA = "890f56df0a621319438e813009cf463e"
KEPT_ASKED = "8a5f293ce3079d6b26636c490939ce82"


def test_runs_from_before_there_were_tasks_go_on() -> None:
    """No answer is asked again, and no verdict of a model: the digests are those of then."""
    judged = {"reasoning": False, "judge": "j", "judge_base_url": "http://j/v1", "serving": {"max_model_len": 4096}}
    sampled = {"provider": "openai", "temperature": 0.7, "samples": 2, "max_completion_tokens": 100}
    keys = {"plain": {}, "sampled": sampled, "judged": judged}
    specs = {name: ExamSpec.model_validate({"model": "m"} | more) for name, more in keys.items()}
    for name, spec in specs.items():
        requests = Requests(spec, SERVED)
        assert digest([list(one) for item in ITEMS for one in requests.wanted(item)]) == KEPT[name], name
        assert digest([requests.messages(item) for item in ITEMS]) == KEPT_MESSAGES
        assert (spec.run_name, spec.dataset, spec.split) == ("hle_m", "cais/hle", "test")
    assert digest([row_of(item) for item in ITEMS]) == KEPT_DATA
    assert digest(judge_identity(specs["judged"], SERVED)) == KEPT_JUDGE
    prompt, _ = load_judge_prompt(specs["judged"])
    assert digest(hle.TASK.judge.schema) == KEPT_SCHEMA
    assert digest(hle.TASK.judge.messages(ITEMS[0], ["Answer: 4"], prompt)) == KEPT_ASKED
