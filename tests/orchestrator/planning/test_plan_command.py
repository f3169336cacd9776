"""`python -m orchestrator.plan`: its table, its JSON, its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from orchestrator import plan
from orchestrator.errors import SpecError
from tests.support.planning_configs import LLAMA_405B, PUBLISHED, QWEN_32B


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster of the user's is looked at."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "kosen"))
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)


def folder(path: Path, config: dict[str, Any]) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return folder(tmp_path / "Qwen3-32B", QWEN_32B)


def test_the_table_marks_the_choice_and_shows_one_replica(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--model", model, "--gpus", "16", "--gpu", "h100"]) == 0
    shown = capsys.readouterr().out
    assert "32,762,123,264 parameters" in shown
    assert "parameter count" in shown
    assert "262,144 bytes of KV cache a token" in shown
    assert [line.split()[1:4] for line in shown.splitlines() if line.startswith("->")] == [["4", "1", "4"]]
    after = shown.split("all GPUs in one replica:\n")[1].splitlines()[0]
    assert after.split()[:3] == ["8", "2", "1"]


def speeds(rows: list[str]) -> list[float]:
    """The column tokens/s of a table's rows, without those that do not fit."""
    cells = [row.removeprefix("->").split() for row in rows]
    return [float(cell[5].replace(",", "")) for cell in cells if cell[5] != "-"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_choice_is_the_fastest_row_of_its_own_table(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PUBLISHED[name]
    for gpu, gpus in (("h100", 16), ("h200", 8), ("h200", 32)):
        command = ["--model", folder(tmp_path / f"{gpu}-{gpus}", config), "--gpus", str(gpus), "--gpu", gpu]
        if "405B" in name and gpus == 8:
            command += ["--max-model-len", "4096"]
        assert plan.main(command) == 0
        shown = capsys.readouterr().out
        rows = [line for line in shown.splitlines() if " GiB  " in line]
        assert speeds([row for row in rows if row.startswith("->")]) == [max(speeds(rows))]
        assert {row.removeprefix("->").split()[1] for row in rows} > {"1"}  # pipelines are shown too
        experts = "num_experts_per_tok" in config
        assert ("no model with experts was measured" in shown) == experts
        piped = " x pipeline " in shown.splitlines()[-1]
        assert ("no pipeline was measured" in shown) == piped


def test_json_has_the_same_figures(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--model", model, "--gpus", "16", "--gpu", "h100", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["parameters"] == 32_762_123_264
    assert made["hosts"] == [8, 8]
    assert (made["chosen"]["tensor_parallel_size"], made["chosen"]["replicas"]) == (4, 4)
    assert made["candidates"][0]["tokens_per_second"] is None
    assert made["chosen"]["tokens_per_second"] > made["one_replica"]["tokens_per_second"]


def test_options_reach_the_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--max-model-len", "1000", "--kv-cache-dtype", "fp8", "--gpu-memory", "90", "--gpus-per-host", "4"]
    assert plan.main(["--model", model, "--gpus", "6", "--gpu", "h100", "--max-num-seqs", "99", "--json", *more]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["hosts"] == [4, 2]
    assert made["gpu"]["memory"] == 90 * 2**30
    demand = made["demand"]
    assert (demand["max_num_seqs"], demand["max_model_len"], demand["cache_value"]) == (99, 1000, 1)
    assert demand["prompt_tokens"] + demand["output_tokens"] == 1000


def test_a_running_cluster_says_how_many(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "kosen/clusters/mine"
    here.mkdir(parents=True)
    nodes = [{"name": f"n{gpus}", "ip": "10.0.0.1", "gpus": gpus} for gpus in (8, 4)]
    state = {"name": "mine", "nodes": nodes, "run_root": str(tmp_path / "runs"), "phase": "ready", "ephemeral": False}
    state |= {"scheduler": "slurm", "ray_address": "", "dashboard_url": "", "ports": {"serve": 8000}}
    (here / "state.json").write_text(json.dumps(state), encoding="utf-8")
    monkeypatch.setenv("KOSEN_CLUSTER", "mine")
    assert plan.main(["--model", model, "--gpu", "h200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"] == [8, 4]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpus", "8"], "does not say which GPUs it has. Give --gpu, one of a100-40gb"),
        (["--gpu", "h100"], "no cluster is running: give --gpus"),
        (["--gpus", "8", "--gpu", "v100"], "the GPU 'v100' is not known"),
        (["--gpus", "0", "--gpu", "h100"], "0 is not above 0"),
    ],
)
def test_what_is_missing_is_asked_for(model: str, arguments: list[str], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        plan.main(["--model", model, *arguments])


def test_a_model_that_fits_nowhere_ends_with_2_and_a_sentence(tmp_path: Path) -> None:
    model = folder(tmp_path / "Llama-3.1-405B", LLAMA_405B)
    command = [sys.executable, "-m", "orchestrator.plan", "--model", model, "--gpus", "8", "--gpu", "h100"]
    done = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "fits nowhere: 756.0 GiB of weights" in done.stderr
    assert "Traceback" not in done.stderr
