"""Finding tasks: by name in the folder, by path, as YAML; what is said of wrong ones; what their verdicts depend on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate
from jobs.exam.requests import Requests, item_of, load_items, row_of
from jobs.exam.spec import ExamSpec, rule_version
from jobs.tasks import registry
from jobs.tasks.registry import code_of, find_task, task_names
from jobs.tasks.task import Item
from orchestrator.errors import SpecError
from tests.support.toys import ROWS, TOY


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "kosen"))  # where no cluster is known


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_task_of_the_folder_goes_by_its_file() -> None:
    assert {"hle", "gsm8k"} <= set(task_names())
    assert [find_task(name).name for name in task_names()] == task_names()


def test_a_task_of_ones_own_brings_its_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.py", TOY + "Backwards.samples = 3\nBackwards.split = 'validation'\n")
    spec = ExamSpec(task=path, model="org/m", dataset=write(tmp_path / "words.jsonl", ROWS))
    assert (spec.samples, spec.split, spec.run_name) == (3, "validation", "backwards_m")
    assert ExamSpec(task=path, model="m", samples=2).samples == 2
    first, second = load_items(spec)
    asked = Requests(spec)
    assert asked.messages(first)[0] == {"role": "system", "content": "Say one word."}
    assert asked.question(row_of(first) | {"sample": 0}).options == {"temperature": 0.25}
    assert asked.question(row_of(second) | {"sample": 0}).options == {}
    given = Requests(spec.model_copy(update={"temperature": 1.0}))
    assert given.question(row_of(first) | {"sample": 0}).options == {}, "the spec takes precedence"
    assert asked.wanted(first)[0].legacy != given.wanted(first)[0].legacy


def test_what_an_item_carries_reaches_the_actors_and_its_keys() -> None:
    plain, more = Item("a", "q", "b"), Item("a", "q", "b", metadata={"turns": ["one", "two"]})
    for item in (plain, more):
        assert item_of(json.loads(json.dumps(row_of(item) | {"sample": 0}))) == item
    requests = Requests(ExamSpec(model="m"))
    assert requests.wanted(plain)[0].reference != requests.wanted(more)[0].reference


TRAVEL = """
import sys
from pathlib import Path
from ray import cloudpickle
from jobs.exam.requests import item_of
question, task, row = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
asked = question(row)
print(asked.messages[-1]["content"], asked.options, task.score(item_of(row), ["Answer: cba"]).verdict)
"""


def test_a_task_of_ones_own_travels_to_processes_that_cannot_import_it(tmp_path: Path) -> None:
    from ray import cloudpickle

    path = tmp_path / "toy.py"
    spec = ExamSpec(task=write(path, TOY), model="m", dataset=write(tmp_path / "words.jsonl", ROWS))
    task, item = find_task(spec.task), load_items(spec)[0]
    registry.ship(task)
    sent = cloudpickle.dumps((Requests(spec).question, task, row_of(item) | {"sample": 0}))
    path.unlink()
    (tmp_path / "sent").write_bytes(sent)
    command = [sys.executable, "-c", TRAVEL, str(tmp_path / "sent")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
    assert done.stdout == "Backwards, say: cba {'temperature': 0.25} yes\n", done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "it defines no TASK"),
        ("TASK = 3", "its TASK has no name, "),
        ("TASK = (\n", "SyntaxError"),
        ("\nTASK = 1 / 0\n", "line 2: ZeroDivisionError"),
        (TOY.replace("def score", "def scores"), "abstract"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_a_file_that_is_not_a_task(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        find_task(write(tmp_path / "mine.py", text))
    assert told in str(error.value) and "mine.py" in str(error.value)


@pytest.mark.parametrize("name", ["hel", "answers", "../hle", "no_such.py", "no_such.yaml", "hle.txt"])
def test_a_task_that_there_is_not(name: str) -> None:
    with pytest.raises(SpecError, match=r"hle|there is no file"):
        ExamSpec(task=name, model="m")


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        ("Backwards.turns = 2", [], "asks 2 turns"),
        ("Backwards.rule = False", [], "has no rule"),
        ("Backwards.rule = False", ["judge=rule"], "has no rule"),
        ("", ["judge=j", "judge_base_url=http://h/v1"], "is not judged by a model"),
        ("Backwards.items = lambda self, rows: []", [], "there are no questions"),
        ("Backwards.items = lambda self, rows: [Item('a', 'q', 'b')] * 2", [], "2 rows have the id 'a'"),
    ],
)
def test_what_a_task_cannot_do_is_told_at_once(tmp_path: Path, change: str, arguments: list[str], told: str) -> None:
    path = write(tmp_path / "toy.py", TOY + change)
    given = ["model=m", "base_url=http://127.0.0.1:1/v1", f"dataset={write(tmp_path / 'words.jsonl', ROWS)}"]
    with pytest.raises(SpecError, match=told):
        evaluate.main(["--dry-run", f"task={path}", *given, *arguments])
    with pytest.raises(SpecError, match="names no data set"):
        load_items(ExamSpec(task=path, model="m"))


CAPITALS = 'prompt: "The capital of {country}?"\nanswer: capital\nsystem_prompt: Be brief.\n'
CITIES = '{"country": "France {x}", "capital": "Paris"}\n{"country": "Japan", "capital": "Tokyo", "category": "Asia"}\n'


def test_a_yaml_beside_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "capitals.yaml", CAPITALS)
    write(tmp_path / "capitals.jsonl", CITIES)
    spec = ExamSpec(task=path, model="m")
    first, second = load_items(spec)
    assert (first.id, first.question, first.answer) == ("1", "The capital of France {x}?", "Paris")
    assert (second.id, second.category, spec.run_name) == ("2", "Asia", "capitals_m")
    assert [message["role"] for message in Requests(spec).messages(first)] == ["system", "user"]
    task = find_task(path)
    assert [task.score(first, [f"Answer: {text}"]).verdict for text in ("paris", "Rome", "")] == ["yes", "no", "no"]
    assert evaluate.main(["--dry-run", "model=org/name", f"task={path}"]) == 0
    assert "2 questions × 1 = 2 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "rows", "told"),
    [
        ("prompts: x", CITIES, "unknown key prompts. Did you mean prompt?"),
        ("answer: capital", CITIES, "row 1 has no field 'question'; it has country, capital"),
        (CAPITALS.replace("answer: capital", "answer: city"), CITIES, "row 1 has no field 'city'"),
        (CAPITALS, "", "there is no|no questions"),
        (CAPITALS, None, "there is no capitals.jsonl beside it"),
        (CAPITALS + "judge_prompt: none.txt", CITIES, "cannot read the prompt file none.txt"),
    ],
)
def test_a_yaml_that_does_not_fit(tmp_path: Path, text: str, rows: str | None, told: str) -> None:
    path = write(tmp_path / "capitals.yaml", text)
    if rows is not None:
        write(tmp_path / "capitals.jsonl", rows)
    with pytest.raises(SpecError, match=told):
        load_items(ExamSpec(task=path, model="m"))


def test_a_yaml_with_a_prompt_for_a_judge(tmp_path: Path) -> None:
    write(tmp_path / "ask.txt", "{question} {response} {correct_answer}")
    write(tmp_path / "capitals.jsonl", CITIES)
    form = find_task(write(tmp_path / "capitals.yaml", CAPITALS + "judge_prompt: ask.txt")).judge
    assert form and form.messages(Item("1", "Q", "A"), ["R"], form.prompt) == [{"role": "user", "content": "Q R A"}]
    without = write(tmp_path / "capitals.yaml", CAPITALS)
    with pytest.raises(SpecError, match=r"no prompt for a judge\. Name a file: judge_prompt="):
        evaluate.main(["--dry-run", f"task={without}", "model=m", "judge=j", "judge_base_url=http://h/v1"])


def test_a_verdict_depends_on_its_own_task_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new task has nothing judged anew; and on every module that reads its answers."""
    names = {path.name for path in code_of("hle")}
    assert {"hle.py", "stated_answer.py", "answers.py", "equivalence.py", "latex.py", "numbers.py"} <= names
    assert not {"yaml_task.py", "registry.py", "exact_match.py"} & names
    toy = write(tmp_path / "toy.py", TOY)
    assert {path.name for path in code_of(toy)} >= {"toy.py", "task.py"}
    yaml = write(tmp_path / "capitals.yaml", CAPITALS)
    assert {path.name for path in code_of(yaml)} >= {"capitals.yaml", "yaml_task.py", "equivalence.py"}
    assert len({rule_version(task) for task in ("hle", "gsm8k", toy, yaml)}) == 4

    before = rule_version("hle")
    (tmp_path / "tasks").mkdir()
    for path in registry.FOLDER.glob("*.py"):
        write(tmp_path / "tasks" / path.name, path.read_text())
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "tasks")

    def now() -> str:
        rule_version.cache_clear()
        code_of.cache_clear()
        return rule_version("hle")

    try:
        write(tmp_path / "tasks" / "toy.py", TOY)
        assert now() == before
        write(tmp_path / "tasks" / "latex.py", "changed = True")
        assert now() != before
    finally:
        monkeypatch.undo()
        assert now() == before


def test_scores_without_a_verdict_are_judged_answers_and_no_wrong_ones() -> None:
    from jobs.tasks.metrics import Outcome

    items = {name: Item(name, "?", "") for name in "abc"}
    outcomes = [Outcome(name, 0, "ok", "scored", None, scores={"grade": grade}) for name, grade in (("a", 7), ("b", 8))]
    figures: dict[str, Any] = find_task("gsm8k").figures(items, 1, outcomes)
    assert figures["scores"] == {"grade": 7.5}
    assert (figures["accuracy"], figures["n_judged"], figures["n_unjudged"], figures["n_missing"]) == (None, 2, 0, 1)
    assert not [name for name in figures if "calibration" in name or "confidence" in name]
