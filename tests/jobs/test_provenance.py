"""Who answers, as the run folder and the world tell it; no cluster, no server but small ones of this test."""

from pathlib import Path
from typing import Any

import pytest

from jobs.exam import provenance
from jobs.exam.requests import load_items
from jobs.exam.spec import ExamSpec
from orchestrator.errors import SpecError
from orchestrator.serving.identity import Served, deciding
from tests.support.harness import numbered, write_exam
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_model import make_tiny_model

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model")


class Folder:
    """A run folder and the spec of its next session."""

    def __init__(self, path: Path, model: str, **fields: Any) -> None:
        self.path, self.exam = path / "run", write_exam(path / "exam.jsonl", numbered(2))
        self.path.mkdir()
        self.fields = {"model": model, "dataset": str(self.exam), **fields}

    def spec(self, **changes: Any) -> ExamSpec:
        return ExamSpec.model_validate(self.fields | changes)

    def answered_by(self, **changes: Any) -> Served:
        found = provenance.who_answers("served", self.spec(**changes), self.path, 1, lambda _: None)
        assert found
        return found

    def session(self, **changes: Any) -> str:
        """One call of a job; who answered in it."""
        spec, served = self.spec(**changes), self.answered_by(**changes)
        provenance.begin_session(self.path, spec, load_items(spec), served=served, judge=None, gpu=None)
        return deciding(served)

    def recorded(self, **changes: Any) -> str | None:
        found = provenance.recorded("served", self.spec(**changes), self.path)
        return deciding(found) if found else None


@pytest.mark.parametrize("address", [{}, {"base_url": NOBODY}])
def test_weights_and_options_of_a_deployment_are_looked_at_each_time(
    address: dict[str, str], model: Path, tmp_path: Path
) -> None:
    """Also where the spec names an address at which nothing listens, as the teams' own configuration does."""
    folder = Folder(tmp_path, str(model), **address)
    first = folder.session()
    assert folder.session() == folder.session(serving={"replicas": 4, "max_num_seqs": 9}) == first
    assert folder.session(serving={"dtype": "float16"}) != first
    make_tiny_model(model, seed=1)
    assert folder.session() != first
    assert folder.recorded() == folder.session() and folder.recorded(serving={"dtype": "bfloat16"}) is None


def test_a_server_that_is_gone_is_who_it_was(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        folder = Folder(tmp_path, "scripted", base_url=server.base_url)
        first = folder.session()
    assert folder.session() == folder.recorded() == first


def test_each_spec_finds_its_own_session(model: Path, tmp_path: Path) -> None:
    with ScriptedServer(model=str(model)) as server:
        folder = Folder(tmp_path, str(model))
        served, deployed = folder.session(base_url=server.base_url), folder.session()
        assert served != deployed
        assert folder.recorded(base_url=server.base_url) == served
        assert folder.recorded(base_url=server.base_url, serving={"dtype": "float16"}) == served  # not our options
        assert folder.recorded() == deployed
        assert folder.recorded(base_url=NOBODY) is None


def test_a_model_that_is_gone_is_refused_unless_there_are_answers_of_it(model: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, str(model))
    with pytest.raises(SpecError, match="no model folder"):
        folder.answered_by(model="/nowhere/model")
    first = folder.session()
    model.rename(tmp_path / "moved")
    assert folder.session() == first
    (folder.path / "specs.jsonl").unlink()  # as a folder of an earlier version
    (folder.path / "predictions.jsonl").write_text("{}\n")
    assert folder.answered_by()["model"]["digest"] is None


def test_what_changed_is_told_in_words(model: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, str(model))
    folder.session()
    folder.session(serving={"engine_kwargs": {"kv_cache_dtype": "fp8"}}, temperature=0.5, max_completion_tokens=9)
    before, after = provenance.sessions(folder.path)
    assert provenance.changes(before, after) == [
        "served.engine.kv_cache_dtype: none → fp8",
        "sampling.sent.temperature: none → 0.5",
    ]
    assert provenance.changes(after, after) == []


def test_a_damaged_line_of_the_sessions_is_passed_over(model: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, str(model))
    first = folder.session()
    with (folder.path / "specs.jsonl").open("a") as file:
        file.write('{"id": 1}\n[1]\n{"id": "half')
    assert folder.recorded() == first
