"""Which rows are trained on as what: columns, turns and their keys, whatever the order of rows."""

import gzip
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import SpecError
from orchestrator.training.data.convert import convert_ppo, convert_sft
from orchestrator.training.data.sieve import DataReport

SHARED = Path(__file__).parents[4] / "shared" / "data"
NAN, INF = float("nan"), float("inf")
Row = dict[str, Any]


def write(folder: Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sft(folder: Path, *rows: object) -> tuple[DataReport, list[Any]]:
    out = folder / "sft.parquet"
    report = convert_sft(write(folder, *rows), out)
    return report, [row["messages"] for row in pq.read_table(out).to_pylist()]


def rl(folder: Path, *rows: object, **options: Any) -> tuple[DataReport, list[Row]]:
    out = folder / "rl.parquet"
    report = convert_ppo(write(folder, *rows), out, **options)
    return report, pq.read_table(out).to_pylist()


def golds(rows: list[Row]) -> list[Any]:
    return [row["reward_model"]["ground_truth"] for row in rows]


def said(*contents: str) -> list[Row]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]


GOOD: Row = {"question": "q", "answer": "a"}


@pytest.mark.parametrize("nothing", [NAN, INF, -INF, None, "", " \n", "\u3000", "\u200b", "\x00"])
def test_what_is_no_answer(tmp_path: Path, nothing: Any) -> None:
    report, rows = rl(tmp_path, GOOD, {"question": "q", "answer": nothing}, {"question": nothing, "answer": "a"})
    assert golds(rows) == ["a"] and sum(drop.rows for drop in report.dropped) == 2
    verl = {"data_source": "s", "prompt": said("q"), "reward_model": {"ground_truth": "a"}}
    report, rows = rl(tmp_path, verl, verl | {"reward_model": {"ground_truth": nothing}})
    assert golds(rows) == ["a"] and report.dropped[0].reason == "no ground truth"
    report, kept = sft(tmp_path, GOOD, {"question": "q", "answer": nothing})
    assert kept == [said("q", "a")] and report.dropped[0].rows == 1


@pytest.mark.parametrize("nothing", [NAN, None, "", " ", [], {}, "[]"])
@pytest.mark.parametrize("column", ["system", "context", "history", "tools", "images", "reasoning", "weight"])
def test_what_is_not_there_in_an_optional_column(tmp_path: Path, nothing: Any, column: str) -> None:
    if column in ("system", "context") and (isinstance(nothing, list | dict) or nothing == "[]"):
        pytest.skip("such a column holds texts")
    other = {"context": "c"} if column == "context" else {}
    _, kept = sft(tmp_path, GOOD | {column: nothing}, GOOD | other)
    assert kept[0] == said("q", "a") and len(kept) == 2


@pytest.mark.parametrize(
    ("value", "gold"), [(72, "72"), (72.0, "72"), (0.5, "0.5"), (-3, "-3"), ("72", "72"), (1e300, "1e+300"), (0, "0")]
)
def test_a_number_is_a_gold(tmp_path: Path, value: Any, gold: str) -> None:
    assert golds(rl(tmp_path, {"question": "q", "answer": value})[1]) == [gold]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": said("q", "a"), "system": "s"}, [{"role": "system", "content": "s"}, *said("q", "a")]),
        (
            {"conversations": said("q", "a"), "system_prompt": "s"},
            [{"role": "system", "content": "s"}, *said("q", "a")],
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, *said("q", "a")], "system": "s"},
            [{"role": "system", "content": "s"}, *said("q", "a")],
        ),
        ({"instruction": "q", "context": "c", "response": "a", "category": "x"}, said("q\n\nc", "a")),
        ({"instruction": "q", "input": "i", "output": "a"}, said("q\n\ni", "a")),
        ({"instruction": "q", "input": NAN, "output": "a"}, said("q", "a")),
        ({"question": "q", "context": "c", "answer": "a"}, said("q\n\nc", "a")),
        (
            {"instruction": "q2", "output": "a2", "history": [["q", "a"]], "system": "s"},
            [{"role": "system", "content": "s"}, *said("q", "a", "q2", "a2")],
        ),
        ({"problem": "q", "solution": "long", "answer": "a"}, said("q", "long")),
        ({"question": "q", "solution": "long", "answer": "a"}, said("q", "long")),
        ({"system_prompt": "", "question": "q", "response": "a"}, said("q", "a")),
        (
            {
                "conversations": [
                    {"from": "system", "value": ""},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            said("q", "a"),
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": None},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            said("q", "a"),
        ),
        ({"messages": [{"role": "system", "content": " "}, *said("q", "a")]}, said("q", "a")),
        ({"conversations": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a"}]}, said("q", "a")),
        ({"conversations": [{"role": "human", "value": "q"}, {"role": "gpt", "value": "a"}]}, said("q", "a")),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, said("q", "a")),
        ({"messages": [{"role": "User", "content": "q"}, {"role": "ASSISTANT", "content": "a"}]}, said("q", "a")),
        ({"messages": [{"role": "user", "from": "human", "content": "q"}, said("q", "a")[1]]}, said("q", "a")),
        (
            {
                "messages": [
                    said("q")[0],
                    {"role": "assistant", "content": "a", "weight": 1, "name": None, "tool_calls": []},
                ]
            },
            said("q", "a"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "q", "weight": 0.0},
                    {"role": "assistant", "content": "a", "weight": 1.0},
                ]
            },
            said("q", "a"),
        ),
    ],
)
def test_what_is_used(tmp_path: Path, row: Row, messages: list[Row]) -> None:
    assert sft(tmp_path, row)[1] == [messages]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"system": "other"}, "two system prompts"),
        ({"context": "c"}, "column context"),
        ({"history": [["q", "a"]]}, "column history"),
        ({"tools": [{"name": "f"}]}, "column tools"),
        ({"tools": '[{"name": "f"}]'}, "column tools"),
        ({"functions": "f"}, "column functions"),
        ({"images": ["a.png"]}, "column images"),
        ({"image": {"bytes": "x"}}, "column image"),
        ({"reasoning": "r"}, "column reasoning"),
        ({"train": False}, "not to be trained on"),
        ({"weight": 0}, "not to be trained on"),
        ({"weight": 0.5}, "not to be trained on"),
        ({"kto_tag": False}, "not to be trained on"),
        ({"label": False}, "not to be trained on"),
        ({"train": 0}, "not to be trained on"),
        ({"Trainable": "no"}, "not to be trained on"),
        ({"kto_tag": "false"}, "not to be trained on"),
        ({"skip": True}, "not to be trained on"),
        ({"exclude": "true"}, "not to be trained on"),
        ({"do_not_train": 1}, "not to be trained on"),
        ({"image_path": "a.png"}, "column image_path"),
        ({"audio_url": "a.wav"}, "column audio_url"),
        ({"Tools": [1]}, "column Tools"),
        ({"tool_definitions": [1]}, "column tool_definitions"),
        ({"thoughts": "r"}, "column thoughts"),
    ],
)
def test_columns_that_would_change_what_is_trained_are_refused(tmp_path: Path, more: Row, reason: str) -> None:
    row = {"messages": [{"role": "system", "content": "s"}, *said("q", "a")]}
    report, kept = sft(tmp_path, row, row | more)
    assert kept == [row["messages"]]
    assert [(drop.reason, drop.rows, drop.first_row) for drop in report.dropped] == [(reason, 1, 2)]
    with pytest.raises(SpecError, match=reason):
        sft(tmp_path, row | more)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"reasoning_content": "r"}, "reasoning"),
        ({"reasoning": "r"}, "reasoning"),
        ({"thinking": "r"}, "reasoning"),
        ({"tool_calls": [{"id": 1}]}, "tools"),
        ({"function_call": {"name": "f"}}, "tools"),
        ({"tool_call_id": "x"}, "tools"),
        ({"images": ["a.png"]}, "media"),
        ({"image_path": "a.png"}, "media"),
        ({"input_audio": {"data": "x"}}, "media"),
        ({"img": "a.png"}, "media"),
        ({"reasoning_text": "r"}, "reasoning"),
        ({"thinking_blocks": [{"thinking": "r"}]}, "reasoning"),
        ({"redacted_thinking": "r"}, "reasoning"),
        ({"inner_thoughts": "r"}, "reasoning"),
        ({"tool_use": {"name": "f"}}, "tools"),
        ({"function_response": "r"}, "tools"),
        ({"include_in_loss": False}, "not to be trained on"),
        ({"do_train": 0}, "not to be trained on"),
        ({"apply_loss": False}, "not to be trained on"),
        ({"mask_loss": True}, "not to be trained on"),
        ({"name": "bob"}, "a turn with more than its text"),
        ({"prefix": True}, "a turn with more than its text"),
        ({"refusal": "no"}, "a turn with more than its text"),
        ({"weight": 0}, "not to be trained on"),
        ({"weight": 0.5}, "not to be trained on"),
        ({"train": False}, "not to be trained on"),
        ({"train": "false"}, "not to be trained on"),
        ({"loss": False}, "not to be trained on"),
        ({"trainable": 0}, "not to be trained on"),
        ({"Loss-Mask": 0}, "not to be trained on"),
        ({"loss_weight": 0.0}, "not to be trained on"),
        ({"mask": True}, "not to be trained on"),
        ({"ignore": 1}, "not to be trained on"),
        ({"value": "b"}, "two texts"),
        ({"from": "human"}, "unknown role"),
        ({"from": ["gpt"]}, "unknown role"),
        ({"role": "tool"}, "tools"),
        ({"role": "function-call"}, "tools"),
        ({"role": None}, "no role"),
        ({"content": 5}, "not text"),
        ({"content": None}, "empty text"),
    ],
)
def test_what_a_turn_would_lose_costs_its_row(tmp_path: Path, more: Row, reason: str) -> None:
    report, kept = sft(tmp_path, {"messages": said("q", "a")}, {"messages": [*said("q"), said("q", "a")[1] | more]})
    assert kept == [said("q", "a")]
    assert [(drop.reason, drop.first_row) for drop in report.dropped] == [(reason, 2)]


@pytest.mark.parametrize(
    "more",
    [
        *({"skip": False}, {"train": True}, {"loss": 1.7}, {"label": 0}, {"target": "no"}, {"function_name": "f"}),
        *({"image_count": 0}, {"constraint": "none"}, {"id": 7}, {"source": "x"}, {"thought_count": 3}),
    ],
)
def test_columns_that_say_nothing_to_a_training_are_kept(tmp_path: Path, more: Row) -> None:
    assert sft(tmp_path, {"messages": said("q", "a")} | more)[1] == [said("q", "a")]
    assert rl(tmp_path, {"question": "q", "answer": "a"} | more)[0].kept == 1


@pytest.mark.parametrize("more", [{"has_image": False}, {"thinking": False}, {"image": 0}])
def test_a_key_that_says_there_is_none_costs_no_row(tmp_path: Path, more: Row) -> None:
    turns = [said("q")[0] | more, said("q", "a")[1] | more]
    assert sft(tmp_path, {"messages": turns})[1] == [said("q", "a")]


@pytest.mark.parametrize("more", [{"train": False}, {"skip": True}, {"weight": 0}, {"image_path": "a.png"}])
def test_a_question_that_is_not_to_be_trained_on_is_dropped(tmp_path: Path, more: Row) -> None:
    row = {"question": "q", "answer": "a"}
    assert rl(tmp_path, row, row | more)[0].kept == 1


def test_keys_of_turns_that_say_nothing_to_a_training_are_named(tmp_path: Path) -> None:
    turns = [said("q")[0] | {"id": 1}, said("q", "a")[1] | {"timestamp": "t", "id": 2, "lang": None}]
    report, kept = sft(tmp_path, {"messages": turns})
    assert kept == [said("q", "a")] and report.unused_turn_keys == ["id", "timestamp"]
    assert "keys of turns not used: id, timestamp" in report.sentence()
    report, rows = rl(tmp_path, {"question": turns[:1], "answer": "a"})
    assert rows[0]["prompt"] == said("q") and report.unused_turn_keys == ["id"]


@pytest.mark.parametrize(
    ("row", "prompt", "gold"),
    [
        ({"problem": "q", "solution": "long", "answer": "a"}, "q", "a"),
        ({"prompt": "q", "completion": "long", "answer": "a"}, "q", "a"),
        ({"question": "q", "response": "long", "final_answer": 5}, "q", "5"),
        ({"problem": "q", "solution": "long", "answer": NAN, "note": 1}, "q", "long"),  # in no row
        ({"instruction": "q", "input": "i", "output": "a"}, "q\n\ni", "a"),
        ({"question": "q", "answer": "a", "context": "c"}, "q\n\nc", "a"),
        ({"question": "q", "answer": "a", "prompt": None}, "q", "a"),
    ],
)
def test_the_bare_answer_is_the_gold(tmp_path: Path, row: Row, prompt: str, gold: str) -> None:
    rows = rl(tmp_path, row)[1]
    assert (rows[0]["prompt"], golds(rows)) == (said(prompt), [gold])


def test_a_row_without_the_bare_answer_is_dropped_and_not_judged_by_the_worked_one(tmp_path: Path) -> None:
    row = {"problem": "q", "solution": "long", "answer": "a"}
    report, rows = rl(tmp_path, row | {"answer": None}, row)
    assert golds(rows) == ["a"] and (report.dropped[0].reason, report.dropped[0].first_row) == ("missing field", 1)


def test_a_prompt_of_turns_takes_the_rows_system_prompt(tmp_path: Path) -> None:
    rows = rl(tmp_path, {"prompt": said("q"), "answer": "a", "system": "s"})[1]
    assert rows[0]["prompt"] == [{"role": "system", "content": "s"}, *said("q")]


def test_the_order_of_rows_decides_nothing(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"id": 1},
        {"question": "q1", "answer": "a1"},
        {"question": "q2", "answer": 2, "system": "s"},
        {"question": "q3", "solution": "long", "answer": None},
    ]
    found = set()
    for order in permutations(rows):
        report, kept = rl(tmp_path, *order)
        found.add((report.format, report.kept, frozenset(golds(kept)), frozenset(report.unused_columns)))
    assert found == {("question/answer", 2, frozenset({"a1", "2"}), frozenset({"id", "solution"}))}


def parquet_with_broken_text(path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"question": broken, "answer": ["a"]}), path)


@pytest.mark.parametrize("convert", [convert_sft, convert_ppo])
def test_a_file_that_cannot_be_read_ends_in_a_sentence(tmp_path: Path, convert: Any) -> None:
    path = tmp_path / "rows.parquet"
    parquet_with_broken_text(path)
    with pytest.raises(SpecError, match="not a valid Parquet file: 'utf-8' codec"):
        convert(str(path), tmp_path / "out.parquet")
    for name in ("rows.jsonl", "rows.json"):
        (tmp_path / name).write_text("[" * 100_000 + "]" * 100_000)
        with pytest.raises(SpecError, match="not valid JSON"):
            convert(str(tmp_path / name), tmp_path / "out.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD) + "\n" + '{"question": ' + "[" * 400 + "]" * 400 + "}\n")
    assert convert(str(tmp_path / "rows.jsonl"), tmp_path / "out.parquet").kept == 1


@pytest.mark.parametrize("value", [2**70, "\ud800", {"a": {"b\ud800": 1}}])
def test_what_parquet_cannot_hold_costs_its_row(tmp_path: Path, value: Any) -> None:
    verl = {"data_source": "s", "prompt": said("q"), "reward_model": {"ground_truth": "a"}}
    report, rows = rl(tmp_path, verl, verl | {"extra_info": {"x": value}})
    assert len(rows) == 1 and report.dropped[0].reason == "not storable"


@pytest.mark.parametrize("extra", [{}, {"x": {}}, {"x": []}, {"x": None}, None, {"": 1}, {"a.b": [None]}])
def test_empty_objects_and_lists_are_stored(tmp_path: Path, extra: Any) -> None:
    verl = {"data_source": "s", "prompt": said("q"), "reward_model": {"ground_truth": "a"}, "extra_info": extra}
    assert len(rl(tmp_path, verl, verl)[1]) == 2


def shared(name: str) -> list[Row]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"there is no {path}")
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows: list[Row] = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    return rows


def test_alpacas_own_rows(tmp_path: Path) -> None:
    rows = shared("alpaca/lf_alpaca_en_demo.json.gz")
    report, kept = sft(tmp_path, *rows)
    assert (report.format, report.kept + sum(drop.rows for drop in report.dropped)) == ("Alpaca", len(rows))
    assert report.kept >= len(rows) - 1
    assert all(
        row["input"] in messages[0]["content"] for row, messages in zip(rows, kept, strict=False) if row["input"]
    )


def test_sharegpts_own_rows_with_tools(tmp_path: Path) -> None:
    rows = shared("alpaca/lf_glaive_toolcall_en_demo.json.gz")
    report, kept = sft(tmp_path, *rows)
    plain = [row for row in rows if row["tools"].strip() in ("", "[]")]
    assert report.kept == len(kept) <= len(plain)
    assert {drop.reason for drop in report.dropped} <= {"column tools", "tools", "order of roles"}


def test_preferences_and_trees_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in ("alpaca/lf_dpo_en_demo.json.gz", "oasst/en_100_tree.jsonl.gz", "oasst/en_100_message.jsonl.gz"):
        with pytest.raises(SpecError, match=r"have the columns|can be trained on"):
            sft(tmp_path, *shared(name))
