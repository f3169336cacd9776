"""From records to figures without Ray: logs as kills, other versions and other programs leave them."""

import io
import json
import signal
import subprocess
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from jobs import score
from jobs.exam.requests import Requests, load_items
from jobs.exam.spec import ExamSpec, judge_identity
from orchestrator.records.types import prediction_digest
from tests.support.harness import Said, numbered, seconds_to_end, start_python, wait_for, write_exam

QUESTIONS = 4


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))  # where no cluster is known


class Folder:
    """A run folder with an answer to each question, right where the exam's reference is, and the rule's verdicts."""

    def __init__(self, path: Path, **spec: Any) -> None:
        self.path = path
        self.exam = write_exam(path / "exam.jsonl", numbered(QUESTIONS))
        self.spec = ExamSpec(dataset=str(self.exam), model="m", judge="rule", run=str(path), **spec)
        self.predictions: list[dict[str, Any]] = []
        self.judgements: list[dict[str, Any]] = []
        requests = Requests(self.spec)
        for number, item in enumerate(load_items(self.spec)):
            for wanted in requests.wanted(item):
                self.predictions.append(prediction(wanted) | {"response": f"Answer: {number}"})
                self.judgements.append(self.judgement(self.predictions[-1], item.answer == str(number)))

    def judgement(self, prediction: Any, right: bool) -> dict[str, Any]:
        return {
            "id": prediction["id"],
            "sample": prediction["sample"],
            "prediction": prediction_digest(prediction),
            "verdict": "yes" if right else "no",
            "reason": None,
            "extracted_answer": "1",
            "reasoning": "",
            "confidence": 90,
            "judge": judge_identity(self.spec),
            "usage": None,
            "attempts": 0,
        }

    def write(self, *more: str, name: str = "predictions.jsonl", end: str = "\n") -> None:
        for log, records in (("predictions.jsonl", self.predictions), ("judgements.jsonl", self.judgements)):
            lines = [json.dumps(record) for record in records] + ([*more] if log == name else [])
            (self.path / log).write_text("\n".join(lines) + (end if log == name else "\n"), encoding="utf-8")

    def score(self, *more: str) -> subprocess.CompletedProcess[str]:
        """As the command does, without a process of its own."""
        arguments = [f"dataset={self.exam}", "model=m", "judge=rule", f"run={self.path}", *more]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = score.main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def figures(self) -> dict[str, Any]:
        done = self.score("--json")
        assert done.returncode in (0, 3), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def prediction(wanted: Any) -> dict[str, Any]:
    return {
        "id": wanted.id,
        "sample": wanted.sample,
        "status": "ok",
        "reason": None,
        "detail": None,
        "response": "",
        "reasoning": None,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        "attempts": 1,
        "started_at": "2026-11-27T08:00:00.000+00:00",
        "seconds": 1.0,
        "model": "m",
        "endpoint": "http://here/v1",
        "fingerprint": wanted.legacy,  # without what earlier versions did not write
        "spec": wanted.legacy_spec,
        "prompt_sha256": "",
    }


def test_a_whole_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write()
    done = folder.score()
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["accuracy"], figures["n_judged"], figures["n_foreign_line"]) == (50.0, QUESTIONS, 0)
    assert figures["failures"] == figures["unjudged"] == {} and figures["commonest_failure"] is None
    assert figures["predict_seconds"] == 1.0
    assert "foreign" not in done.stdout


FIRST = f"{0:024x}"


def test_what_a_judges_server_refused_is_told_beside_the_score(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for judgement in folder.judgements[1:]:
        judgement["adapted"] = ["response_format dropped", "temperature dropped"]
    folder.write()
    assert "3 verdicts: response_format dropped, temperature dropped" in folder.figures()["provenance"]["notes"]


def test_a_dry_run_tells_what_would_be_scored_and_writes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.judgements.pop()
    folder.write()
    before = sorted(tmp_path.rglob("*"))
    done = folder.score("--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"would score 4 of 4 answers and 3 verdicts of judge=rule in {tmp_path}, and write")
    told = json.loads(folder.score("--json", "--dry-run", "samples=2").stdout)
    assert (told["answers"], told["recorded"], told["judged"]) == (8, 4, 3)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("log", ["predictions.jsonl", "judgements.jsonl"])
@pytest.mark.parametrize(
    "line",
    [
        '{"id": 1, "sample": 0}',
        '{"id": null, "sample": 0}',
        '{"id": ["x"], "sample": 0}',
        '{"id": {}, "sample": {}}',
        f'{{"id": "{FIRST}", "sample": 0}}',
        f'{{"id": "{FIRST}", "sample": true, "status": "ok"}}',
        f'{{"id": "{FIRST}", "sample": 0, "status": "ok", "verdict": "yes", "fingerprint": 5, "judge": "m"}}',
        f'{{"id": "{FIRST}", "sample": "0", "status": ["ok"], "verdict": {{}}}}',
        '{"time": "2026-11-27", "event": "planned"}',
        "{}",
        "[1, 2]",
        '"text"',
        "5",
        "null",
        "no JSON at all",
        '{"id": "torn',
        "\x00\x00",
    ],
)
def test_foreign_lines_are_passed_over_counted_and_said(tmp_path: Path, line: str, log: str) -> None:
    folder = Folder(tmp_path)
    folder.write(line, name=log)
    done = folder.score()
    assert done.returncode == 0, done.stderr
    assert "1 foreign line" in done.stdout
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["accuracy"], figures["n_judged"], figures["n_foreign_line"]) == (50.0, QUESTIONS, 1)


@pytest.mark.parametrize("log", ["predictions.jsonl", "judgements.jsonl"])
def test_a_whole_last_record_without_its_newline_counts(tmp_path: Path, log: str) -> None:
    folder = Folder(tmp_path)
    folder.write(name=log, end="")
    figures = folder.figures()
    assert (figures["n_answered"], figures["n_judged"], figures["n_foreign_line"]) == (QUESTIONS, QUESTIONS, 0)


def test_a_torn_last_record_is_no_foreign_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write('{"id": "torn', end="")
    figures = folder.figures()
    assert (figures["n_judged"], figures["n_foreign_line"]) == (QUESTIONS, 0)


@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        ({"prompt_tokens": "10", "completion_tokens": "5", "total_tokens": "105"}, 10),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.5, "total_tokens": 15.5}, 10),
        ({"prompt_tokens": 10}, 10),
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}, 0),
        ([{"prompt_tokens": 10}], 0),
        ("15", 0),
        (True, 0),
        (None, 0),
    ],
)
def test_records_with_the_usage_of_earlier_versions_score(tmp_path: Path, usage: Any, prompt: int) -> None:
    folder = Folder(tmp_path, price=None)
    for record in folder.predictions + folder.judgements:
        record["usage"] = usage
    folder.write()
    tokens = folder.figures()["tokens"]
    assert tokens["prompt_tokens"] == tokens["judge_prompt_tokens"] == prompt * QUESTIONS


def test_the_commonest_failure_stands_beside_the_count(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    words = "Error code: 400 - no model [/bold] \x1b[31mm, request 0xab1{}"
    for number, record in enumerate(folder.predictions):
        reason, detail = ("4xx", words.format(number)) if number else ("empty", None)
        record.update(status="failed", response=None, usage=None, reason=reason, detail=detail)
    folder.judgements = []
    folder.write()
    done = folder.score()
    assert done.returncode == 3
    assert "4 failed (3 × 4xx: Error code: 400 - no model [/bold] \\x1b[31mm, request 0xab11)" in done.stdout
    assert "accuracy           not measured\n" in done.stdout
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["failures"] == {"empty": 1, "4xx": 3}
    assert figures["commonest_failure"] == {"count": 3, "reason": "4xx", "detail": words.format(1)}
    assert figures["accuracy"] is None and figures["categories"]["Math"]["accuracy"] is None


def test_unjudged_answers_are_not_wrong(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for record in folder.judgements:
        record.update(verdict="unjudged", reason="malformed")
    folder.write()
    done = folder.score()
    assert done.returncode == 3 and "accuracy           not measured\n" in done.stdout
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert (figures["accuracy"], figures["n_unjudged"], figures["unjudged"]) == (None, 4, {"malformed": 4})
    folder.judgements[0]["verdict"] = "yes"
    folder.write()
    assert "from 25.00 % (all of them wrong) to 100.00 % (all right)" in folder.score().stdout


# A system call on a hung disk cannot be interrupted: no signal reaches its thread.
HUNG = """
import signal, sys, time
from pathlib import Path
from jobs import predict, score
from jobs.exam import leaderboard
from orchestrator.concurrency import patience
from orchestrator.records import log
from orchestrator.errors import run_command

def hang(*_):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    time.sleep(60)

patience.QUIET = 1.0
"""


def reporting(folder: Folder, fault: str) -> subprocess.Popen[str]:
    """A job that scores a finished run, with a fault."""
    code = f"{HUNG}{fault}\nrun_command(lambda: score.main(sys.argv[1:]))"
    return start_python("-c", code, f"dataset={folder.exam}", "model=m", "judge=rule", f"run={folder.path}")


@pytest.mark.parametrize("fault", ["Path.replace = hang", "log.parse_line = hang"])
def test_a_disk_that_hangs_under_the_report_is_said_and_ctrl_c_works(fault: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write()
    job = reporting(folder, fault)
    said = Said(job)
    wait_for(lambda: f"the run folder {tmp_path} has not answered for" in said, 30, "a sentence")
    assert seconds_to_end(job, signal.SIGINT) < 5
    assert job.returncode == 130
    assert "run the same command to resume" in said.all() and "Traceback" not in said
    assert folder.score().returncode == 0


def test_a_report_that_takes_long_is_not_said_to_hang_and_ctrl_c_leaves_no_half_of_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write()
    busy = "def busy(*_):\n    end = time.monotonic() + 0.7\n    while time.monotonic() < end: pass\n    return {}\n"
    job = reporting(folder, busy + "leaderboard._result = busy")
    said = Said(job)
    wait_for(lambda: [*tmp_path.rglob("*.partial")], 30, "half a report")
    time.sleep(1.6)
    assert job.poll() is None and not said.text
    assert seconds_to_end(job, signal.SIGINT) < 5
    assert job.returncode == 130
    assert "run the same command to resume" in said.all() and "Traceback" not in said
    assert not [*tmp_path.rglob("*.partial")] and not (tmp_path / "leaderboard").exists()
