"""StructEval: which document a response holds, which paths it has, and what of it the original sees."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks.metrics import Outcome
from jobs.tasks.structeval import TASK, export_inference
from jobs.tasks.structeval_formats import parse, parse_original
from jobs.tasks.structeval_paths import has_path
from jobs.tasks.task import Item, Results

MOCK = Path(__file__).parents[4] / "shared" / "data" / "structeval" / "naisy_valid_structeval_t.json.gz"
DOCUMENT = {"a": {"b": [{"c": 1}, {"d": 2}]}, "x.y": 3, "@id": "7", "名": [{"e": None}]}
FENCE = "```"


def item(kind: str, *paths: str, identity: str = "000501") -> Item:
    row = {"task_id": identity, "task_name": f"Text to {kind}", "query": "Write.", "output_type": kind}
    return TASK.items([row | {"raw_output_metric": list(paths), "rendering": False}])[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b[0].c", True),
        ("a.b[2].c", False),
        ("a.b.*.d", True),
        ("a.b.0.c", False),
        ("`x.y`", True),
        ("x.y", False),
        ("a.b[*].c", False),
        ("a", True),
        ("a.b", True),
        ("a.b[-1].d", False),
        ("a.*", False),
        ("@id", True),
        ("@名", True),  # an attribute that is a child
        ("名[0].e", True),  # null is a value
        ("`名`[0].e", True),
        ("csv::a", False),
    ],
)
def test_a_path(path: str, expected: bool) -> None:
    assert has_path(DOCUMENT, path) is expected


def test_paths_of_lists_tables_and_single_children() -> None:
    assert has_path([{"a": 1}], "[0].a") and not has_path([{"a": 1}], "a")
    table = parse("CSV", "name,age.years\nx,1")
    assert has_path(table, "csv::age.years") and not has_path(table, "csv::x")
    book = parse("XML", "<r><book><t>x</t></book></r>")
    assert has_path(book, "r.book[0].t", single_is_list=True) and has_path(book, "r.book.*.t", single_is_list=True)
    assert not has_path(book, "r.book[1].t", single_is_list=True) and not has_path(book, "r.book[0].t")
    assert not has_path(None, "a") and not has_path("text", "a")


@pytest.mark.parametrize(
    ("kind", "response", "right", "original"),
    [
        ("JSON", '{"a": 1}', True, True),
        ("JSON", f'{FENCE}json\n{{"a": 1}}\n{FENCE}', True, True),
        ("JSON", f'{FENCE}json\n{{"a": 1}}', True, True),
        ("JSON", '<|BEGIN_CODE|>{"a": 1}<|END_CODE|>', True, True),
        ("JSON", f'<|BEGIN_CODE|>\n{FENCE}json\n{{"a": 1}}\n{FENCE}\n<|END_CODE|>', True, True),
        ("JSON", 'Here it is [1]: {"a": 1} Done.', True, False),
        ("JSON", '{"a": "x\\ny"}', True, False),  # an escape, decoded too early
        ("JSON", '{"a": "say \\"x\\""}', True, False),
        ("JSON", f'<think>\n{FENCE}\nno\n{FENCE}</think>{{"a": 1}}', True, False),
        ("JSON", f'{FENCE}python\nx\n{FENCE}\n{FENCE}json\n{{"a": 1}}\n{FENCE}', True, False),
        ("JSON", "{}", False, False),
        ("JSON", "I cannot do that.", False, False),
        ("JSON", "[" * 100_000, False, False),
        ("YAML", "a: 1", True, True),
        ("YAML", "I cannot do that.", False, True),  # a scalar
        ("YAML", "a: [", False, False),
        ("YAML", "a: 2024-99-99", False, False),
        ("YAML", "[" * 5_000, False, False),
        ("TOML", "a = 1", True, True),
        ("TOML", 'a = [1, "x"]', True, False),
        ("TOML", "鍵 = 1", False, True),
        ("TOML", "a", False, False),
        ("XML", "<a><b>1</b></a>", True, True),
        ("XML", "&lt;a&gt;1&lt;/a&gt;", False, True),
        ("XML", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', False, False),
        ("XML", "<a>", False, False),
        ("CSV", "a,b\n1,2", True, True),
        ("CSV", "a,b\n1,2,3", False, True),
        ("CSV", "I cannot do that.", False, True),
        ("CSV", "Sorry, I cannot.", False, True),
        *[(kind, blank, False, False) for kind in ("JSON", "YAML", "TOML", "XML", "CSV") for blank in ("", " \n")],
        ("JSON", '<think>still {"a": 1}', False, False),
    ],
)
def test_what_renders(kind: str, response: str, right: bool, original: bool) -> None:
    verdict = TASK.score(item(kind), [response])
    assert verdict.scores == {"format_valid": right, "format_valid_compat": original}
    assert verdict.verdict == ("yes" if right else "no")
    assert (verdict.extracted_answer is None) is not right


def test_the_original_cannot_find_a_key_that_is_not_ascii() -> None:
    scores = TASK.score(item("JSON", "名前", "é"), ['{"名前": 1, "é": 2}']).scores or {}
    assert (scores["final_eval_score"], scores["final_eval_score_compat"]) == (1.0, 0.2)
    assert parse("JSON", '{"é": 1}') == {"é": 1} and parse_original("JSON", '{"é": 1}') == {"Ã©": 1}


@pytest.mark.parametrize(
    ("paths", "final"), [(("a", "b", "c"), 0.73), (("a", "c"), 0.6), (("a", "b"), 1.0), (("c",), 0.2)]
)
def test_weights(paths: tuple[str, ...], final: float) -> None:
    verdict = TASK.score(item("JSON", *paths), ['{"a": 1, "b": 2}'])
    scores = verdict.scores or {}
    assert scores["final_eval_score"] == scores["final_eval_score_compat"] == final
    assert verdict.verdict == ("yes" if final == 1 else "no")


@pytest.mark.parametrize("response", ["", "I cannot do that.", '<think>{"a": 1}'])
def test_no_document_scores_nothing(response: str) -> None:
    verdict = TASK.score(item("JSON", "a"), [response])
    assert (verdict.verdict, verdict.extracted_answer) == ("no", None)
    assert set((verdict.scores or {}).values()) == {0.0}


def test_figures_by_type() -> None:
    items = {"1": item("JSON", "a", identity="1"), "2": item("CSV", "csv::a", identity="2")}
    responses = {"1": '{"a": 1}', "2": "a,b"}
    outcomes = [
        Outcome(name, 0, "ok", (found := TASK.score(items[name], [text])).verdict, None, scores=found.scores)
        for name, text in responses.items()
    ]
    figures = TASK.figures(items, 1, outcomes)
    assert figures["scores"]["final_eval_score"] == 0.5 and figures["scores"]["final_eval_score_compat"] == 1.0
    assert figures["by_output_type"]["CSV"]["average_render_score_compat"] == 1
    assert figures["by_output_type"]["CSV"]["count"] == 1
    assert list(figures["by_task_name"]) == ["Text to CSV", "Text to JSON"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_type": "HTML"}, r"row 1 \(task_id 'p_1'\): output_type is 'HTML'"),
        ({"query": ""}, "query is empty"),
        ({"raw_output_metric": "a"}, "raw_output_metric is not a list"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str) -> None:
    row = {"task_id": "p_1", "task_name": "Text to JSON", "query": "Write.", "output_type": "JSON", "rendering": False}
    with pytest.raises(ValueError, match=message):
        TASK.items([row | change])


def test_the_competitions_rows_have_no_paths_and_pictures_are_left_out() -> None:
    row = {"task_id": "p_1", "task_name": "Text to TOML", "rendering": False, "query": "Write.", "output_type": "TOML"}
    items = TASK.items([row, row | {"task_id": "p_2", "rendering": True, "output_type": "HTML"}])
    assert [found.id for found in items] == ["p_1"]
    assert TASK.score(items[0], ["a = 1"]).scores == {"format_valid": 1, "format_valid_compat": 1}


def test_inference_json_has_each_asked_id_once(tmp_path: Path) -> None:
    items = {name: item("JSON", identity=name) for name in ("p_1", "p_2", "p_3")}
    answers: list[Any] = [
        ({"id": "p_1", "sample": 0, "response": "{}"}, None),
        ({"id": "p_2", "sample": 0, "response": None}, None),
        ({"id": "p_1", "sample": 1, "response": '"日本"\ud800'}, None),
        ({"id": "p_9", "sample": 0, "response": "not asked"}, None),
    ]
    paths = export_inference(tmp_path, Results("m", 2, items, lambda: answers))
    assert [path.name for path in paths] == ["inference.json", "inference_s1.json"]
    first, second = ({row["task_id"]: row["generation"] for row in json.loads(path.read_bytes())} for path in paths)
    assert first == {"p_1": "{}", "p_2": "", "p_3": ""}
    assert list(second) == ["p_1", "p_2", "p_3"] and second["p_1"].startswith('"日本"')
    assert "日本" in paths[1].read_text(encoding="utf-8")
    assert export_inference(tmp_path, Results("m", 1, {}, lambda: []))[0].read_text() == "[]\n"


def made_of(paths: list[str]) -> dict[str, Any]:
    """A document with these paths, of keys and places in lists."""
    document: dict[str, Any] = {}
    for path in paths:
        here: Any = document
        steps = path.replace("[", ".[").split(".")
        for step, following in zip(steps, [*steps[1:], ""], strict=True):
            below: Any = [] if following.startswith("[") else {}
            if step.startswith("["):
                here += [{} for _ in range(int(step[1:-1]) + 1 - len(here))]
                here = here[int(step[1:-1])]
            else:
                here = here.setdefault(step, below)
    return document


def test_every_mock_item_finds_the_paths_of_a_document_made_for_it() -> None:
    if not MOCK.is_file():
        pytest.skip(f"needs {MOCK}, rows in StructEval's schema")
    items = TASK.items(json.loads(gzip.decompress(MOCK.read_bytes())))
    assert len(items) == 500
    for found in items:
        response = f"{FENCE}json\n{json.dumps(made_of((found.metadata or {})['paths']))}\n{FENCE}"
        scores = TASK.score(found, [response]).scores or {}
        assert (scores["final_eval_score"], scores["final_eval_score_compat"]) == (1.0, 1.0)
