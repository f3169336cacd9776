"""Rows in every shape become verl's Parquet files: kept whole, or counted by reason; verl's own data sets read them."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from jobs.tasks.gsm8k_rows import gsm8k_conversations
from orchestrator.errors import SpecError
from orchestrator.training.data import convert
from orchestrator.training.data.convert import convert_ppo, convert_sft, read_report
from orchestrator.training.data.sieve import DataReport
from tests.support.tiny_model import make_tiny_model

Row = dict[str, Any]
# A template with a system prompt of its own, and more in an answer that stands alone: both as in Qwen's.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m['content'] == 'bang' %}{{ raise_exception('no') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}(thought){% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def write(folder: Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    speakers = ("user", "assistant")
    return first + [{"role": speakers[n % 2], "content": text} for n, text in enumerate(contents)]


def kept(path: Path) -> list[Row]:
    return pq.read_table(path).to_pylist()


GPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
SHAPES: dict[str, tuple[Row, list[dict[str, str]], list[str]]] = {
    "messages": (
        {"messages": turns("q", "a", "q2", "a2", system="s"), "id": 7},
        turns("q", "a", "q2", "a2", system="s"),
        ["id"],
    ),
    "ShareGPT": ({"conversations": GPT, "id": 7}, turns("q", "a", system="s"), ["id"]),
    "Alpaca": ({"instruction": "q", "input": "x", "output": " a\n"}, turns("q\n\nx", " a\n"), []),
    "prompt/response": ({"prompt": "q", "response": "a", "system": "s"}, turns("q", "a", system="s"), []),
    "question/answer": ({"question": "q 東京", "answer": "a"}, turns("q 東京", "a"), []),
    "input/output": ({"input": "q", "output": "a", "score": 1}, turns("q", "a"), ["score"]),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_becomes_messages(tmp_path: Path, name: str) -> None:
    row, messages, unused = SHAPES[name]
    report = convert_sft(write(tmp_path, row, row), tmp_path / "out.parquet")
    assert kept(tmp_path / "out.parquet") == [{"messages": messages}] * 2
    assert (report.format, report.rows, report.kept, report.unused_columns) == (name, 2, 2, unused)
    assert read_report(tmp_path / "out.parquet") == report


BAD = {
    "no turns": {"messages": []},
    "missing field": {"other": 1},
    "not text": {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, *turns("", "a")[1:]]},
    "empty text": {"messages": turns("q", " \n")},
    "order of roles": {"messages": turns("q", "a", "q2")},
    "tools": {"messages": [*turns("q"), {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]},
    "no role": {"messages": [{"content": "q"}]},
}


def test_unfit_rows_are_dropped_and_named(tmp_path: Path) -> None:
    good = {"messages": turns("q", "a")}
    rows = [good, *BAD.values(), {"messages": turns("\ud800", "a")}, {"messages": [*turns("q"), *turns("q", "a")]}]
    report = convert_sft(write(tmp_path, *rows), tmp_path / "out.parquet")
    assert kept(tmp_path / "out.parquet") == [good]
    counted = {drop.reason: (drop.rows, drop.first_row) for drop in report.dropped}
    assert counted.pop("not text") == (2, 4) and counted.pop("order of roles") == (2, 6)
    assert counted == {reason: (1, number) for number, reason in enumerate(BAD, start=2) if reason in counted}
    assert len(report.dropped) == len(BAD)
    assert "the last turn is from 'user', expected 'assistant'" in report.sentence()
    assert "turn 1 is a list, expected text" in report.sentence()


def test_nothing_is_kept(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "robot", "value": "x"}]}
    with pytest.raises(
        SpecError, match=r"none of the 2 rows .* 2 of them: unknown role \(row 1: turn 1 is from 'robot'"
    ):
        convert_sft(write(tmp_path, row, row), tmp_path / "out.parquet")
    assert read_report(tmp_path / "out.parquet") is None
    with pytest.raises(SpecError, match=r"have the columns a, b\. Expected messages"):
        convert_sft(write(tmp_path, {"a": 1, "b": 2}), tmp_path / "out.parquet")
    with pytest.raises(SpecError, match="has no rows"):
        convert_sft(write(tmp_path), tmp_path / "out.parquet")
    with pytest.raises(SpecError, match="there is no data set file"):
        convert_sft(str(tmp_path / "absent.jsonl"), tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == []


def test_lengths_are_those_of_verls_data_set(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """verl refuses a row that is a token too long, and builds it turn by turn: ours and its count must agree."""
    from verl.utils import hf_tokenizer
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    monkeypatch.setattr(convert, "BATCH_ROWS", 2)
    rows = [turns("q", "a"), turns("What?", "That.", "Why?", "So."), turns("q", "bang"), turns("q", "a", system="s")]
    source = write(tmp_path, *({"messages": messages} for messages in rows))
    report = convert_sft(source, tmp_path / "all.parquet", tokenizer_path=model)
    assert [(drop.reason, drop.first_row) for drop in report.dropped] == [("refused by the chat template", 3)]
    settings = {"max_length": 500, "truncation": "error", "pad_mode": "no_padding", "ignore_input_ids_mismatch": True}
    loaded = MultiTurnSFTDataset(str(tmp_path / "all.parquet"), hf_tokenizer(model), OmegaConf.create(settings))
    lengths = sorted(len(loaded[index]["input_ids"]) for index in range(3))
    assert report.tokens and report.tokens.model_dump() == {
        "min": lengths[0],
        "median": lengths[1],
        "max": lengths[2],
        "total": sum(lengths),
    }
    short = convert_sft(source, tmp_path / "short.parquet", tokenizer_path=model, max_length=lengths[2] - 1)
    assert kept(tmp_path / "short.parquet") == [{"messages": rows[0]}, {"messages": rows[3]}]
    assert short.dropped[0].reason == f"longer than {lengths[2] - 1} tokens"
    assert (short.dropped[0].first_row, short.dropped[0].example) == (2, f"{lengths[2]} tokens")
    assert pq.ParquetFile(tmp_path / "short.parquet").num_row_groups == 2


def test_a_model_without_a_template(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    source = write(tmp_path, {"messages": turns("q", "a")})
    with pytest.raises(SpecError, match="has no chat template"):
        convert_sft(source, tmp_path / "out.parquet", tokenizer_path=str(folder))
    with pytest.raises(SpecError, match="cannot load the tokenizer of"):
        convert_sft(source, tmp_path / "out.parquet", tokenizer_path=str(tmp_path / "none"))


# Gemma's: no system role, strict alternation; and others that end in all kinds of errors.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BROKEN = {
    "syntax": "{% for m in messages %}",
    "undefined": "{{ messages[0].nothing.more }}",
    "type": "{{ messages + 1 }}",
    "division": "{{ 1 // 0 }}",
    "filter": "{{ messages | nothing }}",
    "import": "{% import 'x' as y %}",
    "key": "{{ {}['a'].b }}",
}


def with_template(folder: Path, template: str) -> str:
    make_tiny_model(folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_a_template_of_strict_turns(tmp_path: Path) -> None:
    """verl's SFT cannot work with it, and says so in jinja's words; its PPO can."""
    model = with_template(tmp_path / "model", GEMMA)
    rows = [{"prompt": turns("q"), "answer": "a"}, {"prompt": turns("q", system="s"), "answer": "a"}]
    report = convert_ppo(write(tmp_path, *rows), tmp_path / "rl.parquet", tokenizer_path=model, max_prompt_length=90)
    assert report.kept == 1 and report.tokens
    assert [(drop.reason, drop.first_row) for drop in report.dropped] == [("refused by the chat template", 2)]
    assert "System role not supported" in report.dropped[0].example
    with pytest.raises(SpecError, match=r"verl's SFT cannot train with the chat template .* roles must alternate"):
        convert_sft(write(tmp_path, {"messages": turns("q", "a")}), tmp_path / "sft.parquet", tokenizer_path=model)


@pytest.mark.parametrize("name", list(BROKEN))
def test_any_error_of_a_template_is_a_sentence(tmp_path: Path, name: str) -> None:
    model = with_template(tmp_path / "model", BROKEN[name])
    with pytest.raises(SpecError, match="verl's SFT cannot train with the chat template"):
        convert_sft(write(tmp_path, {"messages": turns("q", "a")}), tmp_path / "sft.parquet", tokenizer_path=model)
    with pytest.raises(SpecError, match=r"none of the 1 rows .* refused by the chat template \(row 1: it says"):
        convert_ppo(write(tmp_path, {"question": "q", "answer": "a"}), tmp_path / "rl.parquet", tokenizer_path=model)


def test_a_check_reads_the_first_rows_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "DRY_ROWS", 2)
    source = write(tmp_path, {"question": "q", "answer": "a"}, {"question": "", "answer": "a"}, {"question": "q"})
    report = convert_ppo(source, None, tokenizer_path="org/none")
    assert "1 of the first 2 rows kept" in report.sentence() and report.tokens is None
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_same_is_not_done_twice(tmp_path: Path) -> None:
    source = write(tmp_path, {"question": "q", "answer": "a"})
    out, other = tmp_path / "train.parquet", tmp_path / "val.parquet"
    first = convert_sft(source, out)
    convert_ppo(source, other)
    written = out.stat().st_mtime_ns
    assert convert_sft(source, out) == first and out.stat().st_mtime_ns == written
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"train.parquet", "val.parquet"}
    assert convert_sft(source, out, max_length=9).kept == 1 and out.stat().st_mtime_ns != written
    written = out.stat().st_mtime_ns
    os.utime(source, ns=(1, 1))
    convert_sft(source, out, max_length=9)
    assert out.stat().st_mtime_ns != written
    out.unlink()
    convert_sft(source, out, max_length=9)
    assert out.exists()


def test_rows_made_before_their_reader_moved_are_not_made_again(tmp_path: Path) -> None:
    source = write(tmp_path, {"question": "q", "answer": "a #### 1"})
    out = tmp_path / "train.parquet"
    report = convert_sft(source, out, shape_of=gsm8k_conversations)
    module = gsm8k_conversations.__module__
    for earlier, is_same in (("jobs.prepare.gsm8k_conversations", True), ("jobs.prepare.another_reader", False)):
        reports = (tmp_path / "report.json").read_text()
        (tmp_path / "report.json").write_text(reports.replace(f"{module}.gsm8k_conversations", earlier))
        written = out.stat().st_mtime_ns
        assert convert_sft(source, out, shape_of=gsm8k_conversations).kept == report.kept == 1
        assert (out.stat().st_mtime_ns == written) is is_same
        (tmp_path / "report.json").write_text(reports)


def test_questions_for_ppo_are_verls_rows(tmp_path: Path, model: str) -> None:
    from verl.utils import hf_tokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    rows = [{"question": "1+1?", "answer": 2}, {"question": "x" * 80, "answer": "y"}, {"question": "1?", "answer": ""}]
    rows += [{"question": "2+2?", "answer": "4"}]
    options: Row = {"tokenizer_path": model, "max_prompt_length": 90}
    report = convert_ppo(write(tmp_path, *rows), tmp_path / "rl.parquet", split="test", data_source="toy", **options)
    assert [(drop.reason, drop.first_row) for drop in report.dropped] == [
        ("longer than 90 tokens", 2),
        ("empty text", 3),
    ]
    assert kept(tmp_path / "rl.parquet")[0] == {
        "data_source": "toy",
        "prompt": turns("1+1?"),
        "ability": "",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "test", "index": 0},
    }
    settings = {"max_prompt_length": 90, "filter_overlong_prompts": True, "cache_dir": str(tmp_path / "cache")}
    loaded = RLHFDataset(str(tmp_path / "rl.parquet"), hf_tokenizer(model), OmegaConf.create(settings))
    assert len(loaded) == 2 and loaded[1]["index"] == 3
    assert report.tokens
    tight = {"max_prompt_length": report.tokens.max - 1, "cache_dir": str(tmp_path / "cache")}
    assert len(RLHFDataset(str(tmp_path / "rl.parquet"), hf_tokenizer(model), OmegaConf.create(tight))) == 0


def verl_row(**changes: Any) -> Row:
    row = {
        "data_source": "toy",
        "prompt": turns("q", system="s"),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "5"},
        "extra_info": {"split": "train", "index": 3, "difficulty": 0.5},
    }
    return row | changes


def test_verls_own_rows_pass_as_they_are(tmp_path: Path) -> None:
    unjudged = verl_row(reward_model={"style": "rule", "ground_truth": ""})
    answered = verl_row(prompt=turns("q", "a"))
    source = write(tmp_path, verl_row(), unjudged, answered, verl_row(ability="logic"))
    report = convert_ppo(source, tmp_path / "rl.parquet", data_source="ignored")
    assert kept(tmp_path / "rl.parquet") == [verl_row(), verl_row(ability="logic")]
    assert report.format == "verl"
    assert {drop.reason: drop.first_row for drop in report.dropped} == {"no ground truth": 2, "order of roles": 3}


def test_a_field_of_late_rows_is_kept_whichever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "BATCH_ROWS", 1)
    more = verl_row(extra_info={"split": "train", "index": 3, "difficulty": 1, "hint": "h"}, level=[{"at": 1}])
    less = verl_row()
    del less["ability"]
    for rows in ([verl_row(), more, less], [less, more, verl_row()]):
        convert_ppo(write(tmp_path, *rows), tmp_path / "rl.parquet")
        found = kept(tmp_path / "rl.parquet")
        assert [row["extra_info"]["hint"] for row in found] == [None, "h", None]
        assert [row["extra_info"]["difficulty"] for row in found] == [0.5, 1.0, 0.5]
        assert [row["level"] for row in found] == [None, [{"at": 1}], None]
        assert [row["ability"] for row in found] == [row.get("ability") for row in rows]


def test_fields_of_several_types(tmp_path: Path) -> None:
    """Plain values become texts, and the report says so; of lists and objects the most frequent are kept."""
    golds = ["72", 72, 72.5, True]
    rows = [verl_row(reward_model={"style": "rule", "ground_truth": gold}) for gold in golds]
    report = convert_ppo(write(tmp_path, *rows), tmp_path / "rl.parquet")
    assert [row["reward_model"]["ground_truth"] for row in kept(tmp_path / "rl.parquet")] == [
        "72",
        "72",
        "72.5",
        "True",
    ]
    assert report.stored_as_text == ["reward_model.ground_truth"]
    assert "stored as text, for the types differ: reward_model.ground_truth" in report.sentence()
    rows = [verl_row(level=[1]), verl_row(level={"a": 1}), verl_row(level=[{"a": 1}, 2]), verl_row(level=[3])]
    rows.append(verl_row(reward_model={"style": "rule", "ground_truth": ["5"]}))
    for order in (rows, rows[::-1]):
        report = convert_ppo(write(tmp_path, *order), tmp_path / "rl.parquet")
        assert sorted(row["level"] for row in kept(tmp_path / "rl.parquet")) == [[1], [3]]
        assert [(drop.reason, drop.rows) for drop in report.dropped] == [("another type", 3)]
    report = convert_ppo(write(tmp_path, *rows), tmp_path / "rl.parquet")
    assert (report.dropped[0].first_row, report.dropped[0].example) == (
        2,
        "level is object, where most rows have list values",
    )


def test_columns_by_name(tmp_path: Path) -> None:
    source = write(tmp_path, {"text": "q", "gold": "a"})
    report: DataReport = convert_ppo(source, tmp_path / "rl.parquet", question_key="text", answer_key="gold")
    assert report.format == "text/gold" and kept(tmp_path / "rl.parquet")[0]["prompt"] == turns("q")
    with pytest.raises(SpecError, match="or give question_key= and answer_key="):
        convert_ppo(source, tmp_path / "rl.parquet")
