"""The eight multiple-choice tasks: rows to items, prompts, scores, and figures by subject and by group."""

import gzip
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.exam.requests import load_items
from jobs.exam.spec import ExamSpec
from jobs.tasks import gpqa, mmlu_pro, mmlu_subjects
from jobs.tasks.metrics import Outcome
from jobs.tasks.multiple_choice import MultipleChoice
from jobs.tasks.registry import find_task
from jobs.tasks.task import Item
from orchestrator.errors import SpecError

SHARED = Path(__file__).parents[4] / "shared" / "data"
JMMLU, STEM = SHARED / "jmmlu", SHARED / "mmlu" / "mmlu_stem_qwen.jsonl.gz"

LETTERED = {"question": "日本の首都は？", "A": "京都", "B": "東京", "C": "大阪", "D": "奈良", "answer": "B"}
LISTED = {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1}
NUMBERED: dict[str, Any] = {"question": "3 × 3?", "answer_index": 4} | {
    f"option_{place}": str(place + 5) if place < 6 else None for place in range(10)
}
SCIENCE: dict[str, Any] = {"Question": "Which one?\n", "Correct Answer": "right\n"} | {
    f"Incorrect Answer {number}": f"wrong {number}" for number in (1, 2, 3)
}
TEXT = {
    "activity_label": "Baking",
    "ctx_a": "[header] A cake [title] One.",
    "ctx_b": "the Baker",
    "endings": ["[title] sings.", "stirs. [step] Then [substeps] rests.", "[header] runs.", "sleeps."],
    "label": "1",
}
ROWS: dict[str, dict[str, Any]] = {
    "ja_mmlu": LETTERED | {"config": "astronomy"},
    "en_mmlu": LISTED | {"config": "astronomy"},
    "en_mmlu_pro": {"question": "3?", "options": ["1", "2", "3"], "answer_index": 2, "src": "stemez-Business"},
    "en_mmlu_prox": NUMBERED | {"config": "theoremQA_Math"},
    "ja_mmlu_prox": NUMBERED | {"config": "theoremQA_Math"},
    "ja_gpqa": SCIENCE,
    "en_gpqa_diamond": SCIENCE | {"Record ID": "rec1", "High-level domain": "Physics"},
    "en_hellaswag": TEXT,
}


def task_of(name: str) -> MultipleChoice:
    found = find_task(name)
    assert isinstance(found, MultipleChoice)
    return found


def item_of(name: str, **changes: Any) -> Item:
    (item,) = task_of(name).items([ROWS[name] | changes])
    return item


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_a_prompt_and_a_letter(name: str) -> None:
    task, item = task_of(name), item_of(name)
    letters = dict(item.metadata or {})["letters"]
    assert item.answer in letters and item.answer_type == "multipleChoice"
    (message,) = task.messages(item, task.system_prompt)
    assert message["role"] == "user" and "{" not in message["content"]
    assert ", ".join(letters) in message["content"]
    assert ("回答: $選択肢" if name.startswith("ja_") else "Answer: $LETTER") in message["content"]
    assert message["content"].endswith(
        f"\n{letters[-1]}{task.mark} {message['content'].rpartition(task.mark + ' ')[2]}"
    )
    right = task.score(item, [task.reference_response(item)])
    assert (right.verdict, right.extracted_answer) == ("yes", item.answer)
    assert right.scores == {"extractive_match": 1, "answered": 1}
    assert pickle.loads(pickle.dumps(task)).score(item, ["x"]).verdict == "no"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "response",
    ["", "I am sorry, but I can't help.", "申し訳ありません。", "Let us go through the options: A) is", "\0"],
)
def test_no_answer_is_an_unanswered_one(name: str, response: str) -> None:
    verdict = task_of(name).score(item_of(name), [response])
    assert (verdict.verdict, verdict.extracted_answer) == ("no", None)
    assert verdict.scores and verdict.scores["answered"] == 0


def test_the_original_counts_a_refusal_as_an_answer() -> None:
    task, item = task_of("en_mmlu"), item_of("en_mmlu", answer=0)
    verdict = task.score(item, ["Answer: none of the above"])
    assert (verdict.verdict, verdict.scores) == ("no", {"extractive_match": 1, "answered": 0})


def test_ids_and_subjects_are_stable() -> None:
    rows = [LISTED | {"type": subject} for subject in ("anatomy", "virology", "anatomy")]
    assert [item.id for item in task_of("en_mmlu").items(rows)] == ["anatomy/1", "virology/1", "anatomy/2"]
    assert [item.id for item in task_of("en_mmlu").items([LISTED, LISTED | {"id": 7}])] == ["1", "7"]
    assert item_of("en_gpqa_diamond").id == "rec1"
    assert item_of("en_mmlu_pro").category == "stemez_Business"


def test_options_up_to_j_and_the_last_lines_of_prompts() -> None:
    assert item_of("en_mmlu_prox").answer == "E"
    assert item_of("en_mmlu_prox").question.endswith("\n\n3 × 3?\n\nA) 5\nB) 6\nC) 7\nD) 8\nE) 9\nF) 10")
    ten = {f"option_{place}": place for place in range(10)}
    assert item_of("en_mmlu_prox", **ten, answer_index="9").answer == "J"
    assert item_of("en_hellaswag").question.endswith(
        "\n\nBaking: [header] A cake [title] One. The baker\n\n"
        "A: sings.\nB: stirs.  Then  rests.\nC: [header] runs.\nD: sleeps."
    )
    braces = item_of("en_mmlu", question="What is {options}?")
    assert "What is {options}?" in braces.question


def test_the_place_of_gpqas_right_option() -> None:
    assert gpqa.swallow_places(20) == [3, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 2, 3, 3, 1, 0, 1, 0, 0]
    rows = [SCIENCE | {"Record ID": f"rec{number}", "High-level domain": "Physics"} for number in range(400)]
    items = task_of("en_gpqa_diamond").items(rows)
    assert task_of("en_gpqa_diamond").items(rows[7:]) == items[7:], "whatever the selection"
    counts = [sum(item.answer == letter for item in items) for letter in "ABCD"]
    assert sum(counts) == 400 and min(counts) > 70

    class Original(type(task_of("en_gpqa_diamond"))):  # type: ignore[misc]  # a class that is found at run time
        choice_order = "swallow"

    drawn = Original().items(rows[:20])
    assert ["ABCD".index(item.answer) for item in drawn] == gpqa.swallow_places(20)
    assert drawn[0].question.endswith("A) wrong 1\nB) wrong 2\nC) wrong 3\nD) right")
    assert drawn[7].question.endswith("A) wrong 1\nB) wrong 2\nC) right\nD) wrong 3")


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("ja_mmlu", {"A": ""}, "row astronomy/1: A is empty"),
        ("ja_mmlu", {"answer": "E"}, "row astronomy/1: answer is 'E', expected a letter A to D or a number 0 to 3"),
        ("en_mmlu", {"answer": 4}, "row astronomy/1: answer is '4'"),
        ("en_mmlu", {"answer": True}, "row astronomy/1: answer is ''"),
        ("en_mmlu", {"choices": "ABCD"}, "row astronomy/1: choices is not a list of 2 to 10 options"),
        ("en_mmlu", {"choices": ["a", None]}, r"row astronomy/1: choices\[1\] is null"),
        ("en_mmlu_prox", {"option_2": None}, "row theoremQA_Math/1: option_0 to option_9"),
        ("en_hellaswag", {"label": ""}, "row Baking/1: label is ''"),
        ("en_hellaswag", {"endings": ["a"]}, "row Baking/1: endings is not a list of four texts"),
        ("ja_gpqa", {"Question": None}, "row 1: Question is null"),
    ],
)
def test_a_wrong_row_is_named(name: str, changes: Mapping[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        item_of(name, **changes)


def test_the_subjects_and_groups_of_the_suite() -> None:
    assert {group: len(of) for group, of in mmlu_subjects.GROUPS.items()} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }
    assert len(mmlu_subjects.SUBJECTS) == len(set(mmlu_subjects.SUBJECTS)) == 57
    assert len(mmlu_subjects.JAPANESE_SUBJECTS) == 53
    japanese = mmlu_subjects.JAPANESE_GROUPS
    assert len(japanese["social_sciences"]) == 10
    assert len({*japanese["humanities"]} - {*mmlu_subjects.JAPANESE_ONLY}) == 9
    assert len(mmlu_pro.GROUPS) == 14 and len(mmlu_pro.SUBSETS) == len(set(mmlu_pro.SUBSETS)) == 91
    assert {"ori_mmlu_anatomy", "stemez_Biology", "theoremQA_EECS", "scibench_quan"} <= set(mmlu_pro.SUBSETS)


def test_figures_by_subject_and_group() -> None:
    task = task_of("ja_mmlu")
    subjects = ["astronomy"] * 2 + ["philosophy"] + ["japanese_history"] * 3
    items = {item.id: item for item in task.items([LETTERED | {"config": name} for name in subjects])}
    responses = ["回答: B", "回答: Ｂ", "回答: C", "回答: B", "", "まずBについて"]
    outcomes = []
    for (identity, item), response in zip(items.items(), responses, strict=True):
        verdict = task.score(item, [response])
        outcomes.append(Outcome(identity, 0, "ok", verdict.verdict, None, scores=verdict.scores))
    figures = task.figures(items, 1, outcomes)
    assert (figures["accuracy"], figures["n_unanswered"]) == (50.0, 2)
    assert figures["scores"]["extractive_match"] == 3 / 6
    astronomy = figures["categories"]["astronomy"]
    assert (astronomy["accuracy"], astronomy["scores"]["extractive_match"]) == (100.0, 0.5)
    humanities, other = figures["groups"]["humanities"], figures["groups"]["other"]
    assert (humanities["accuracy"], humanities["n_total"]) == (25.0, 4)
    assert humanities["scores"]["extractive_match"] == 0, "japanese_history is in none of the original's groups"
    assert other == {"accuracy": None, "n_total": 0, "n_judged": 0, "scores": {}}
    assert task.figures(items, 1, outcomes[::-1]) == figures
    assert task.figures(items, 1, [])["groups"]["stem"]["accuracy"] is None


def test_a_group_named_as_a_whole_counts_in_itself() -> None:
    task = task_of("en_mmlu_pro")
    row = {"question": "1?", "options": ["1", "2"], "answer_index": 0, "category": "computer science"}
    items = {item.id: item for item in task.items([row])}
    outcomes = [Outcome("computer science/1", 0, "ok", "yes", None, scores={"extractive_match": 1.0})]
    assert task.figures(items, 1, outcomes)["groups"]["computer_science"]["accuracy"] == 100


# --- data of several configs ---

LINE = "日本の首都は？,京都,東京,大阪,奈良,B\n"
HEADER = "question,A,B,C,D,answer\n"


def load(dataset: Path, task: str = "ja_mmlu") -> list[Item]:
    return load_items(ExamSpec(task=task, model="m", dataset=str(dataset)))


def test_a_folder_with_a_file_for_each_subject(tmp_path: Path) -> None:
    (tmp_path / "virology.csv").write_text(HEADER + LINE * 2, encoding="utf-8-sig")
    (tmp_path / "anatomy.csv").write_text(LINE * 3, encoding="utf-8-sig")
    (tmp_path / "japanese_idiom.csv").write_text(LINE, encoding="utf-8")  # which the suite does not ask
    (tmp_path / "sociology.csv.gz").write_bytes(gzip.compress(LINE.encode()))
    items = load(tmp_path)
    assert [item.id for item in items] == [
        *("anatomy/1", "anatomy/2", "anatomy/3", "sociology/1", "virology/1", "virology/2"),
    ]
    assert {item.answer for item in items} == {"B"}


def test_an_archive_as_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "JMMLU.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("JMMLU/test/virology.csv", "\ufeff" + HEADER + LINE * 2)
        archive.writestr("JMMLU/dev/virology.csv", HEADER + LINE)
        archive.writestr("JMMLU/dev/anatomy.csv", HEADER)
        archive.writestr("__MACOSX/._virology.csv", "\0")
    assert [item.id for item in load(path)] == ["virology/1", "virology/2"]

    asked: list[Any] = []

    def download(*given: Any, **more: Any) -> str:
        asked.append((given, more["repo_type"], more["revision"]))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(load_items(ExamSpec(task="ja_mmlu", model="m"))) == 2
    assert asked == [(("nlp-waseda/JMMLU", "JMMLU.zip"), "dataset", None)]
    pinned = load_items(ExamSpec(task="ja_mmlu", model="m", dataset="hf://datasets/us/data@abc/some/folder/x.zip"))
    assert len(pinned) == 2 and asked[1:] == [(("us/data", "some/folder/x.zip"), "dataset", "abc")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("LocalEntryNotFoundError", "is not in the local cache and .* python -m jobs.prefetch"),
        ("HFValidationError", "cannot load the data set hf://datasets/nlp-waseda/JMMLU/JMMLU.zip"),
    ],
)
def test_a_file_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch, error: str, expected: str) -> None:
    import huggingface_hub

    def fail(*given: Any, **more: Any) -> str:
        raise getattr(huggingface_hub.errors, error)("no such file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(SpecError, match=expected):
        load_items(ExamSpec(task="ja_mmlu", model="m"))


def test_configs_of_the_hub_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, subset: str, **more: Any) -> Any:
        assert (name, more["split"]) == ("lighteval/mmlu", "test")
        return datasets.Dataset.from_list([LISTED | {"subject": "x", "more": subset}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = load_items(ExamSpec(task="en_mmlu", model="m"))
    assert [item.id for item in items] == [f"{subject}/1" for subject in mmlu_subjects.SUBJECTS]
    one = load_items(ExamSpec(task="en_mmlu", model="m", dataset="lighteval/mmlu:virology"))
    assert [item.id for item in one] == ["virology/1"]


def test_years_that_are_data_sets_of_their_own_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, subset: str | None, **more: Any) -> Any:
        assert subset is None and more["split"] == "train"
        return datasets.Dataset.from_list([{"problem": f"What does {name} ask?", "answer": "7"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = load_items(ExamSpec(task="en_aime_2024_2025", model="m"))
    assert [item.category for item in items] == ["2024", "2025"]
    [other] = load_items(ExamSpec(task="en_aime_2024_2025", model="m", dataset="someone/aime"))
    assert "What does someone/aime ask?" in other.question


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("virology.csv", HEADER + "a,b\n", "line 2: the row does not have the header's 6 fields"),
        ("virology.csv", "a,b\n", "line 1: the row does not have the header's 6 fields"),
        ("virology.csv", "Question,A,B,C,D,Answer\n", "virology/1: answer is 'Answer'"),
        ("x.zip", "PK", "cannot read the data set .*x.zip: File is not a zip file"),
        ("virology.csv.gz", "no gzip", "cannot read the data set .*virology.csv.gz"),
    ],
)
def test_broken_data_are_one_sentence(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(SpecError, match=expected) as caught:
        load(tmp_path / name if name.endswith("zip") else tmp_path)
    assert "\n" not in str(caught.value)


def test_an_archive_without_the_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("test/other.csv", HEADER + LINE)
    with pytest.raises(SpecError, match="has none of the files abstract_algebra"):
        load(tmp_path / "x.zip")
    with pytest.raises(SpecError, match="there is no data set file"):
        load(tmp_path / "absent.zip")


# --- real data ---


@pytest.mark.skipif(not JMMLU.exists(), reason=f"there is no {JMMLU}")
def test_all_of_jmmlu() -> None:
    items = load(JMMLU)
    assert (len(items), len({item.category for item in items})) == (7097, 53)
    assert {item.answer for item in items} == set("ABCD")
    task = task_of("ja_mmlu")
    assert all(task.score(item, [task.reference_response(item)]).verdict == "yes" for item in items[::50])


@pytest.mark.skipif(not STEM.exists(), reason=f"there is no {STEM}")
def test_all_of_mmlus_stem_rows() -> None:
    items = load(STEM, "en_mmlu")
    rows = [json.loads(line) for line in gzip.decompress(STEM.read_bytes()).splitlines()]
    assert [item.answer for item in items] == ["ABCD"[row["answer"]] for row in rows]
    assert len(items) == 3018 and {item.category for item in items} <= set(mmlu_subjects.GROUPS["stem"])
