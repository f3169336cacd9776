"""`python -m jobs.bench` as a user gives it: what is wrong, what is shown, what is measured once and not again."""

import importlib
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import bench
from jobs.benchmarking.results import Collectives, Compute, DeviceRates
from jobs.benchmarking.run import PARTS
from jobs.benchmarking.spec import BenchSpec, Part
from orchestrator.errors import ClusterNotReady, KosenError, SpecError
from orchestrator.records.lock import Owner, RunLock
from orchestrator.spec import load_spec
from tests.support.harness import run


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["collectives.larges=8"], "collectives.largest"),
        (["parts=[compute,cooling]"], "cooling"),
        (["train.workers=[]"], "train.workers"),
        (["serve.ways=[]"], "serve.ways"),
        (["serve.replicas=[]"], "serve.replicas"),
        (["--nonsense"], "--nonsense"),
        (["report", "no/such/folder"], "no/such/folder"),
        (["report"], "RESULTS_FOLDER"),
    ],
)
def test_a_mistake_is_refused_before_anything_starts(arguments: list[str], part: str) -> None:
    with pytest.raises(SpecError) as error:
        bench.main(arguments)
    assert part in str(error.value) and error.value.exit_code == 2


def test_a_cluster_without_gpus_is_not_measured_as_if_it_had_some() -> None:
    with pytest.raises(ClusterNotReady, match="no GPU"):
        BenchSpec(device="cuda").settle_device(gpus=0)
    assert [BenchSpec().settle_device(gpus) for gpus in (0, 8)] == ["cpu", "cuda"]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_measured(part: Part) -> None:
    assert callable(importlib.import_module(f"jobs.benchmarking.parts.{PARTS[part].module}").measure)


def test_dry_run_shows_what_would_be_measured_where(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    assert bench.main(["--dry-run", f"run={tmp_path}/r", "parts=[collectives]"]) == 0
    shown = capsys.readouterr().out
    for part in (f"{tmp_path}/r", "smallest: 8", "a local one would be started", "collectives: "):
        assert part in shown
    assert "compute: " not in shown
    assert not (tmp_path / "r").exists()


def test_a_folder_is_reported_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["report", str(tmp_path)]) == 0
    assert "GPU use: not measured" in capsys.readouterr().out
    (tmp_path / "train.json").write_text("{}")
    assert bench.main(["report", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problems"]


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_nothing_to_measure_is_measured_in_full(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        done = run("jobs.bench", "parts=[]", f"run={folder}", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["nodes"] == 1
        assert str(folder) in (folder / "benchmark.log").read_text()
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["device"] == "cpu" and environment["nodes"][0]["memory"] > 2**28
        assert environment["versions"].keys() >= {"ray", "torch", "verl"}
        assert (folder / "report.html").exists() and (folder / "cpu_metrics.csv").exists()

    def test_a_folder_in_use_is_refused(self, tmp_path: Path) -> None:
        lock = RunLock(tmp_path, Owner(socket.gethostname(), os.getpid()))
        done = run("jobs.bench", "parts=[]", f"run={tmp_path}")
        lock.release()
        assert done.returncode == 2
        assert "is being written by another job" in done.stderr.splitlines()[-1]

    def test_what_failed_is_measured_again_and_what_is_done_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calls: list[str] = []
        problems: list[KosenError] = [KosenError("the fan of n1 stands still")]

        def compute(spec: BenchSpec, folder: Path, cluster: Any) -> None:
            calls.append(f"compute on {spec.device} of {cluster.name}")
            rates = DeviceRates(node="n1", index=None, name="CPU", dtype="float32", matmul=1e9, memory=2e9)
            Compute(devices=[rates]).write(folder)  # as a part does that has some of its figures
            for problem in problems:
                raise problem

        def collectives(spec: BenchSpec, folder: Path, cluster: Any) -> None:
            calls.append("collectives")
            Collectives(backend="gloo", transfers=[]).write(folder)

        for name, measure in (("compute", compute), ("collectives", collectives)):
            monkeypatch.setitem(sys.modules, f"jobs.benchmarking.parts.{name}", SimpleNamespace(measure=measure))
        given = ["parts=[collectives,compute]", f"run={tmp_path}"]
        assert bench.main(given) == 3
        assert calls == ["compute on cpu of local", "collectives"]
        events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["part_started", "part_failed", "part_started", "part_measured"]
        assert "the fan of n1 stands still" in (tmp_path / "report.md").read_text()

        problems.clear()
        assert bench.main([*given, "--dry-run"]) == 0
        assert capsys.readouterr().out.count("(measured already)") == 1
        assert bench.main([*given, "collectives.link_rate=1e9"]) == 0  # which decides no figure
        assert calls[2:] == ["compute on cpu of local"]
        assert "collectives: measured already" in capsys.readouterr().err
        assert "stands still" not in (tmp_path / "report.md").read_text()
        assert load_spec(BenchSpec, tmp_path / "spec.yaml", []).collectives.link_rate == 1e9
        with pytest.raises(SpecError, match=r"collectives was .*another run="):
            bench.main([*given, "collectives.largest=16"])
