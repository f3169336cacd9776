"""The exam's items, prompts and verdicts."""

import hashlib
import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.exam.requests import select
from jobs.tasks import hle
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.task import Item, Verdict
from jobs.tasks.verdicts import parse_verdict
from jobs.tasks.yes_no_judge import VERDICT_SCHEMA, YesNoJudge

ROW = {"id": "a", "question": "1+1?", "answer": "2", "answer_type": "exactMatch", "category": "Math", "image": ""}


def make_item(**changes: str) -> Item:
    fields: dict[str, Any] = ROW | changes
    return Item(**fields)


def test_items_from_rows_keeps_the_fields_and_ignores_others() -> None:
    rows: list[dict[str, Any]] = [ROW, ROW | {"id": 7, "answer": 2.5, "image": None, "rationale": "because"}]
    first, second = hle.items_from_rows(rows)
    assert first == make_item()
    assert (second.id, second.answer, second.image) == ("7", "2.5", "")


def test_image_is_optional() -> None:
    row = {name: value for name, value in ROW.items() if name != "image"}
    assert hle.items_from_rows([row])[0].image == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"question": None}, "row 2 (id 'b'): question is null"),
        ({"question": "  "}, "row 2 (id 'b'): question is empty"),
        ({"question": 5}, "row 2 (id 'b'): question is a int"),
        ({"answer": ["x"]}, "row 2 (id 'b'): answer is a list"),
        ({"answer": {"x": 1}}, "row 2 (id 'b'): answer is a dict"),
        ({"answer": True}, "row 2 (id 'b'): answer is a bool"),
        ({"category": 3}, "row 2 (id 'b'): category is a int"),
        ({"image": {"bytes": b""}}, "row 2 (id 'b'): image is a dict"),
        ({"image": {"bytes": None, "path": "a.png"}}, "row 2 (id 'b'): image is a dict that holds no bytes"),
        ({"image": {"url": "x"}}, "row 2 (id 'b'): image is 'x', expected a data URI"),
        ({"image": "pictures/a.png"}, "row 2 (id 'b'): image is 'pictures/a.png', expected a data URI"),
        ({"image": "iVBORw0KGgo" * 99}, "image is 'iVBORw0KGgoiVBORw0KGgoiVBORw0KGgoiVBORw0'…, expected a data URI"),
        ({"image": 5}, "row 2 (id 'b'): image is a int"),
        ({"image": ["a", "b"]}, "row 2 (id 'b'): image is a list"),
        ({"image": b"text"}, "row 2 (id 'b'): image is bytes in no known format"),
        ({"answer": math.nan}, "row 2 (id 'b'): answer is nan (not a number)"),
        ({"answer": math.inf}, "row 2 (id 'b'): answer is inf (not a number)"),
        ({"question": math.nan}, "row 2 (id 'b'): question is nan (not a number)"),
        ({"id": 1.0}, "row 2: id is a float"),
        ({"id": None}, "row 2: id is null"),
        ({"id": "a"}, "rows 1 and 2 both have the id 'a'"),
    ],
)
def test_bad_rows_are_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        hle.items_from_rows([ROW, ROW | {"id": "b"} | changes])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["id", "question", "answer", "answer_type", "category"])
def test_missing_fields_are_named(field: str) -> None:
    row = {name: value for name, value in ROW.items() if name != field}
    with pytest.raises(ValueError, match=f"row 1.* has no field '{field}'"):
        hle.items_from_rows([row])


EMPTY: list[Any] = [None, "", " ", "nan", "NaN", "None", "null", "[]", "{}", "<NA>", [], {}, math.nan, [None], [""]]
EMPTY += ["undefined", "-", False]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((empty, "") for empty in [*EMPTY, {"bytes": None, "path": None}, {"bytes": None}]),
        ({"bytes": b"\x89PNG\r\n\x1a\nrest", "path": "a.png"}, "data:image/png;base64,iVBORw0KGgpyZXN0"),
        (b"\xff\xd8\xff\xe0", "data:image/jpeg;base64,/9j/4A=="),
        (b"GIF89a", "data:image/gif;base64,R0lGODlh"),
        (b"RIFF....WEBP", "data:image/webp;base64,UklGRi4uLi5XRUJQ"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
        (["data:image/png;base64,AA"], "data:image/png;base64,AA"),
        ({"url": "https://example.org/a.png"}, "https://example.org/a.png"),
        (bytearray(b"GIF89a"), "data:image/gif;base64,R0lGODlh"),
        ("https://example.org/a.png", "https://example.org/a.png"),
    ],
)
def test_images(value: Any, expected: str) -> None:
    assert hle.items_from_rows([ROW | {"image": value}])[0].image == expected


def test_a_decoded_image() -> None:
    picture = pytest.importorskip("PIL.Image").new("RGB", (2, 2))
    assert hle.items_from_rows([ROW | {"image": picture}])[0].image.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((spelling, "exactMatch") for spelling in ("exact_match", "Exact Match")),
        *((spelling, "multipleChoice") for spelling in ("multiple_choice", "MULTIPLECHOICE", "multiple-choice ")),
    ],
)
def test_answer_types_are_known_in_other_spellings(value: str, expected: str) -> None:
    told: list[str] = []
    assert hle.items_from_rows([ROW | {"answer_type": value}], told.append)[0].answer_type == expected
    assert not told


@pytest.mark.parametrize("value", ["essay", "", " ", None, 5, math.nan, ["exactMatch"], "short answer"])
def test_an_odd_answer_type_costs_no_other_row(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW, ROW | {"id": "b", "answer_type": value}, ROW | {"id": "c", "answer_type": "multipleChoice"}]
    told: list[str] = []
    types = [item.answer_type for item in hle.items_from_rows(rows, told.append)]
    assert types == ["exactMatch", "exactMatch", "multipleChoice"]
    assert told == [f"1 of 3 questions have no known answer_type ({value!r}): taken as exactMatch"]
    hle.items_from_rows(rows)
    assert told[0] in capsys.readouterr().err


def test_the_teams_results_are_questions() -> None:
    result = {name: value for name, value in ROW.items() if name not in ("answer", "image")} | {"gold": "2"}
    assert hle.items_from_rows([result, result, result | {"id": "b"}]) == [make_item(), make_item(id="b")]
    assert hle.items_from_rows([ROW | {"gold": "other"}]) == [make_item()]
    with pytest.raises(ValueError, match="rows 1 and 2 both have the id 'a'"):
        hle.items_from_rows([result, result | {"gold": "3"}])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"ID": 1, "Question": "x"}, "row 1 has no field 'id'; it has ID, Question; rename 'ID' to 'id'"),
        ({"id;question": "1;x"}, "row 1 has no field 'id'; it has id;question; separate the columns by commas"),
        ({"id\tquestion": "1\tx"}, "row 1 has no field 'id'; it has id question; separate the columns by commas"),
        ({"test": []}, "row 1 has no field 'id'; it has test"),
        ({str(n): n for n in range(99)}, "it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …"),
    ],
)
def test_the_columns_that_there_are_stand_in_the_message(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        hle.items_from_rows([row])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_no_rows_and_no_object() -> None:
    with pytest.raises(ValueError, match="no questions"):
        hle.items_from_rows([])
    with pytest.raises(ValueError, match="row 1 is a list"):
        hle.items_from_rows([["a"]])  # type: ignore[list-item]


def test_many_items_are_small() -> None:
    def rows() -> Iterator[dict[str, str]]:
        for number in range(20_000):
            line = json.dumps(ROW | {"id": f"{number:024x}", "question": f"What is {number} and one, in decimal?"})
            yield json.loads(line)

    tracemalloc.start()
    items = hle.items_from_rows(rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(items) == 20_000
    assert peak < 20_000 * 800, "bytes each, so that 100,000 items take less than 80 MB"


ITEMS = [
    make_item(id="q1", category="Math", image="data:image/png;base64,AA"),
    make_item(id="q2", category="Physics"),
    make_item(id="q3", category="Math"),
    make_item(id="q4", category="Math"),
]


def test_select_filters_before_it_counts() -> None:
    assert [item.id for item in select(ITEMS, max_samples=2)] == ["q2", "q3"]
    assert [item.id for item in select(ITEMS, multimodal=True, max_samples=2)] == ["q1", "q2"]
    assert [item.id for item in select(ITEMS, categories=["Math"], max_samples=1)] == ["q3"]
    assert [item.id for item in select(ITEMS, question_ids=["q4", "q2"])] == ["q2", "q4"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"categories": ["Maths"]}, "no category 'Maths'; the nearest are 'Math'"),
        ({"question_ids": ["q9"]}, "no question id 'q9'; the nearest are 'q"),
        ({"question_ids": ["q1"]}, "question 'q1' has an image; give multimodal=true"),
    ],
)
def test_select_names_what_is_wrong(selection: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        select(ITEMS, **selection)
    assert expected in str(caught.value)


def test_select_that_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="none of 1 questions"):
        select(ITEMS[:1])


def test_messages_are_plain_text_without_an_image() -> None:
    assert hle.TASK.messages(ITEMS[1], "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]


def test_messages_with_an_image() -> None:
    content = hle.TASK.messages(ITEMS[0], "Be brief.")[1]["content"]
    assert content[0] == {"type": "text", "text": "1+1?"}
    assert content[1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def test_judge_messages_substitute_once() -> None:
    item = make_item(question="Is {response} in {x}?", answer="{question}")
    template = "Q {question} R {response} A {correct_answer} {other}"
    (message,) = YesNoJudge().messages(item, ["{correct_answer} \\1"], template)
    assert message["role"] == "user"
    assert message["content"] == "Q Is {response} in {x}? R {correct_answer} \\1 A {question} {other}"


@pytest.mark.parametrize("name", ["question", "response", "correct_answer"])
def test_judge_template_without_a_placeholder(name: str) -> None:
    template = "{question} {response} {correct_answer}".replace(f"{{{name}}}", "")
    with pytest.raises(ValueError, match=f"has no {{{name}}}"):
        YesNoJudge().messages(make_item(), ["4"], template)


def test_shipped_prompts_have_hle_labels() -> None:
    system, digest = load_prompt("hle_system.txt")
    assert digest == hashlib.sha256(system.encode()).hexdigest()
    assert [line.split(":")[0] for line in system.splitlines()[1:]] == ["Explanation", "Answer", "Confidence"]
    judge, _ = load_prompt("hle_judge.txt")
    labels = ["[question]:", "[response]:", "extracted_final_answer:", "[correct_answer]:"]
    labels += ["reasoning:", "correct:", "confidence:"]
    places = [judge.index(f"\n{label}") for label in labels]
    assert places == sorted(places)
    (message,) = YesNoJudge().messages(make_item(), ["Answer: 2"], judge)
    assert "{" not in message["content"]


def test_prompts_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("  回答せよ\n\n", encoding="utf-8")
    assert load_prompt(path) == ("回答せよ", hashlib.sha256("回答せよ".encode()).hexdigest())
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9\xe8")
    for name, expected in {"empty.txt": "is empty", "latin.txt": "not UTF-8", "none.txt": "hle_judge.txt"}.items():
        with pytest.raises(ValueError, match=expected):
            load_prompt(str(tmp_path / name))
    with pytest.raises(ValueError, match="cannot read"):
        load_prompt(tmp_path)


def test_schema_is_what_openai_calls_strict() -> None:
    schema = VERDICT_SCHEMA
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    assert schema["properties"]["correct"]["enum"] == ["yes", "no"]
    json.dumps(schema)


GOOD = '{"extracted_final_answer": "5", "reasoning": "same", "correct": "yes", "confidence": 80, "strict": true}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here is my verdict:\n{GOOD}\nDone {{or not}}.",
        f'<think>{{"correct": "no"}} hm, correct: no</think>\n{GOOD}',
        f"The set \\frac{{1}}{{2}} and {{5}}: {GOOD}",
        GOOD.replace("true}", "true,}"),
        GOOD.replace('"yes"', '"Yes"'),
        GOOD.replace('"yes"', "true"),
        GOOD.replace("80", '"80%"'),
        GOOD.replace("80", "80.0"),
        GOOD.replace('"correct"', '"Correct"'),
        f'{{"judge": {GOOD}}}',
        f"{GOOD}\n{GOOD}",
        GOOD.replace("{", "{\n  ").replace(", ", ",\n  ").replace("true}", "true,\n}"),
        "extracted_final_answer: 5\nreasoning: same\ncorrect: yes\nconfidence: 80%",
        "**extracted_final_answer:** 5\n**reasoning:** same\n**correct:** Yes\n- **confidence:** 80",
    ],
)
def test_parse_verdict_forgives_the_form(text: str) -> None:
    assert parse_verdict(text) == Verdict("yes", "5", "same", 80)


def test_parse_verdict_forgives_raw_text_in_strings() -> None:
    text = '{"extracted_final_answer": "\\sqrt{2}", "reasoning": "line\nline \\(x\\)", "correct": "no", '
    text += '"confidence": null}'
    assert parse_verdict(text) == Verdict("no", "\\sqrt{2}", "line\nline \\(x\\)", None)


def test_parse_verdict_without_the_other_fields() -> None:
    assert parse_verdict('{"correct": "no"}') == Verdict("no", None, "", None)
    assert parse_verdict('{"correct": false, "extracted_final_answer": "None"}') == Verdict("no", None, "", None)
    assert parse_verdict('{"correct": "yes", "extracted_final_answer": 5}') == Verdict("yes", "5", "", None)
    assert parse_verdict('{"correct": "yes", "confidence": 130}') == Verdict("yes", None, "", 130)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is correct.",
        "no",
        "correct: maybe",
        "correct: yes\ncorrect: no",
        "correct: 'yes' if it matches, 'no' otherwise",
        "<think>correct: yes",
        '{"correct": "maybe"}',
        '{"correct": "yes or no"}',
        '{"correct": 1}',
        '{"correct": null}',
        '{"correct": "yes", "correct": "no"}',
        '{"correct": "yes"} {"correct": "no"}',
        '{"extracted_final_answer": "5", "reasoning": "sa',
        '{\n"extracted_final_answer": "5",\n"correct": "yes",\n"conf',
        '{"correct answer": "yes"}',
        '["correct", "yes"]',
        '{"correct": ' + "[" * 100_000,
        '{"' * 10_000,
    ],
)
def test_parse_verdict_never_guesses(text: str) -> None:
    assert parse_verdict(text) is None


def test_rule_verdict() -> None:
    item = make_item()
    assert hle.TASK.score(item, ["Answer: 2.0\nConfidence: 70%"]).verdict == "yes"
    assert hle.TASK.score(item, ["Answer: 3\nConfidence: 70%"]) == Verdict(
        "no", "3", "not equal to the reference after normalising", 70
    )
    silent = hle.TASK.score(item, ["2, I think. Confidence: 70%"])
    assert (silent.verdict, silent.extracted_answer, silent.confidence) == ("no", None, None)
