"""`jobs.prepare` as users call it: GSM8K and rows of their own."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.prepare import main
from jobs.tasks.gsm8k import INSTRUCTION
from orchestrator.errors import SpecError, StorageFailed
from tests.support.harness import call, run


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"Q{n}?", "answer": f"So <<1+1=2>>.\n#### 1,00{n}"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def refused(*arguments: str) -> str:
    with pytest.raises(SpecError) as caught:
        main(arguments)
    return str(caught.value)


def test_gsm8k_for_both_trainings(gsm8k: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = call("jobs.prepare", "gsm8k", f"source={gsm8k}", f"out={out}", "--dry-run")
    assert planned.returncode == 0 and f"{gsm8k}/test.jsonl → {out}/rl/test.parquet" in planned.stdout
    assert not out.exists()
    done = call("jobs.prepare", "gsm8k", f"source={gsm8k}", f"out={out}")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 rows kept" in done.stderr
    prompt = [{"role": "user", "content": f"Q1?\n\n{INSTRUCTION}"}]
    answer = "So <<1+1=2>>.\n#### 1,001"
    sft = pq.read_table(out / "sft" / "test.parquet").to_pylist()
    assert sft[1] == {"messages": [*prompt, {"role": "assistant", "content": answer}]}
    rl = pq.read_table(out / "rl" / "test.parquet").to_pylist()
    assert len(rl) == 2 and rl[1] == {
        "data_source": "openai/gsm8k",
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "1001"},
        "extra_info": {"split": "test", "index": 1, "question": "Q1?", "answer": answer},
    }


def test_verls_reward_takes_what_was_asked_for(gsm8k: Path, tmp_path: Path) -> None:
    from verl.utils.reward_score import default_compute_score

    assert call("jobs.prepare", "gsm8k", f"source={gsm8k}", f"out={tmp_path}").returncode == 0
    row = pq.read_table(tmp_path / "rl" / "train.parquet").to_pylist()[2]
    gold = row["reward_model"]["ground_truth"]
    assert default_compute_score(row["data_source"], row["extra_info"]["answer"], gold) == 1
    assert default_compute_score(row["data_source"], "#### 7", gold) == 0


def test_rows_of_ones_own(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "q", "gold": "a"}\n{"text": "", "gold": "a"}\n')
    config = tmp_path / "data.yaml"
    config.write_text(f"source: {rows}\nquestion_key: text\nanswer_key: gold\n")
    out = tmp_path / "train.parquet"
    done = call("jobs.prepare", "rl", "--config", str(config), f"out={out}", "data_source=toy")
    assert done.returncode == 0 and "1 of 2 rows kept (text/gold)" in done.stderr, done.stderr
    assert pq.read_table(out).to_pylist()[0]["data_source"] == "toy"
    rows.write_text('{"instruction": "q", "output": "a"}\n')
    done = call("jobs.prepare", "sft", f"source={rows}", f"out={out}")
    assert done.returncode == 0 and "(Alpaca)" in done.stderr


def test_mistakes_end_in_one_sentence(gsm8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no task 'dpo'. Expected one of gsm8k, sft, rl" in refused("dpo", "out=x")
    assert "is not a Parquet file" in refused("sft", f"source={gsm8k}/test.jsonl", f"out={tmp_path}/x")
    assert "should hold one file train*.jsonl" in refused("gsm8k", f"source={tmp_path}", f"out={tmp_path}/x")
    (gsm8k / "train.jsonl").write_text('{"prompt": "q"}\n')
    assert "these are not rows of GSM8K: they have the columns prompt" in refused(
        "gsm8k", f"source={gsm8k}", f"out={tmp_path}/x"
    )
    for wrong in ("out=~nobody-here/x.parquet", "tokenizer=~nobody-here/t", "source=~nobody-here/x.jsonl"):
        given = [f"source={gsm8k}/test.jsonl", f"out={tmp_path}/x.parquet", wrong]
        assert "there is no home folder ~nobody-here" in refused("sft", *given)
    assert "is not a valid path" in refused("sft", f"source={gsm8k}/test.jsonl", f"out={'o' * 300}.parquet")
    with pytest.raises(StorageFailed, match="cannot write"):
        main(["sft", f"source={gsm8k}/test.jsonl", f"out={gsm8k}/test.jsonl/o.parquet"])
    assert "unknown key max_prompt_length" in refused("sft", "source=x", "out=x", "max_prompt_length=3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    done = run("jobs.prepare", "gsm8k", f"out={tmp_path}/x")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr and "Traceback" not in done.stderr


def test_a_bad_row_of_gsm8k_costs_that_row(tmp_path: Path) -> None:
    golds = ["#### $18", None, "#### many", "#### 1,234", "no mark", "#### 3/4", "#### 72.0", "#### -$5"]
    rows: list[dict[str, str | None]] = [
        {"question": f"Q{n}?", "answer": gold and f"So it is.\n{gold}"} for n, gold in enumerate(golds)
    ]
    rows += [{"question": None, "answer": "#### 1"}, {"question": "Q?"}]
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("jobs.prepare", "gsm8k", f"source={folder}", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    kept = ["18", "1234", "0.75", "72", "-5"]
    for split in ("train", "test"):
        found = pq.read_table(tmp_path / "out" / "rl" / f"{split}.parquet").to_pylist()
        assert [row["reward_model"]["ground_truth"] for row in found] == kept
        assert [row["extra_info"]["index"] for row in found] == [0, 3, 5, 6, 7]
        assert len(pq.read_table(tmp_path / "out" / "sft" / f"{split}.parquet")) == len(kept)
    exam = [json.loads(line) for line in (tmp_path / "out" / "exam.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in exam] == kept
    assert "5 of 10 rows kept (GSM8K)" in done.stderr and "5 of 10 rows kept (exam)" in done.stderr
    assert "3 dropped, missing field (first: row 2, there is no answer)" in done.stderr
    assert "2 dropped, not a problem of GSM8K (first: row 3, its answer ends in '#### many'" in done.stderr
