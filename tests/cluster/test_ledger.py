"""The ledger: what a successor must take up, and whether it has a reason to."""

import json
from pathlib import Path

import pytest

from cluster.folder.ledger import End, Ledger, RayJob, parse_jobs
from cluster.schedulers import slurm_states


def lost(state: str | None) -> bool:
    """Whether Slurm's word for a job's end, or its silence, blames nothing in the job."""
    return state is None or slurm_states.job("1", state, "None").lost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def ray_job(status: str, name: str = "a") -> RayJob:
    return RayJob(name, f"python {name}.py", status, "/home/u/project", {"env_vars": {"X": "1"}})


def ids(ledger: Ledger) -> list[str]:
    return [job.submission_id for job in ledger.unfinished()]


class TestUnfinishedJobs:
    def test_those_pending_or_running_when_last_seen(self, path: Path) -> None:
        ledger = Ledger(path, "1")
        ledger.start()
        for name, status in (("a", "PENDING"), ("b", "RUNNING"), ("c", "SUCCEEDED"), ("d", "FAILED"), ("e", "STOPPED")):
            ledger.note(ray_job("PENDING", name))
            ledger.note(ray_job(status, name))
        assert ids(Ledger(path, "2")) == ["a", "b"]
        assert Ledger(path, "2").unfinished()[1] == ray_job("RUNNING", "b")  # whole, as it was submitted

    def test_a_job_is_written_down_once_for_each_status(self, path: Path) -> None:
        ledger = Ledger(path, "1")
        for status in ("PENDING", "RUNNING", "RUNNING", "RUNNING"):
            ledger.note(ray_job(status))
        assert len(path.read_text().splitlines()) == 2

    def test_those_that_the_walltime_stopped(self, path: Path) -> None:
        ledger = Ledger(path, "1")
        ledger.note(ray_job("RUNNING", "a"))
        ledger.note(ray_job("RUNNING", "b"))
        assert [job.submission_id for job in ledger.interrupt()] == ["a", "b"]
        ledger.note(ray_job("STOPPED", "a"))
        ledger.note(ray_job("SUCCEEDED", "b"))  # it was about to end anyway
        ledger.end("walltime")
        assert ids(Ledger(path, "2")) == ["a"]

    def test_a_pending_job_that_still_started_before_it_was_stopped(self, path: Path) -> None:
        ledger = Ledger(path, "1")
        ledger.note(ray_job("PENDING"))
        ledger.interrupt()
        ledger.note(ray_job("RUNNING"))
        ledger.note(ray_job("STOPPED"))
        assert ids(ledger) == ["a"]

    def test_not_those_that_their_user_stopped_after_they_were_taken_up(self, path: Path) -> None:
        first, second = Ledger(path, "1"), Ledger(path, "2")
        first.note(ray_job("RUNNING"))
        first.interrupt()
        first.note(ray_job("STOPPED"))
        first.end("walltime")
        second.start()
        assert ids(second) == ["a"]
        second.note(ray_job("RUNNING"))
        second.note(ray_job("STOPPED"))
        second.end("walltime")
        assert ids(Ledger(path, "3")) == []

    def test_those_of_a_batch_job_that_ended_without_a_word(self, path: Path) -> None:
        Ledger(path, "1").note(ray_job("RUNNING"))
        assert ids(Ledger(path, "2")) == ["a"]


def test_a_torn_last_line_is_left_out(path: Path) -> None:
    ledger = Ledger(path, "1")
    ledger.start()
    ledger.note(ray_job("RUNNING"))
    with path.open("a") as file:
        file.write('{"event": "job", "batch_job": "1", "submiss')
    assert ids(Ledger(path, "2")) == ["a"]
    assert Ledger(path, "2").start() == 1  # and what is written after it can be read
    Ledger(path, "2").note(ray_job("SUCCEEDED"))
    assert ids(Ledger(path, "3")) == []
    assert Ledger(path, "3").start() == 2


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"5",
            b"null",
            b"[1]",
            b'[["event", "job"]]',
            b'{"id": 1}',
            b'{"event": "start"}',
            b"\xff",
            b'{"event": null}',
        ),
        *(b'{"event": "job", "batch_job": "1"}', b'{"event": "end", "batch_job": "1"}', b'{"event": ["x"]}'),
        *(b'{"event": "successor", "batch_job": "1"}', b'{"event": "interrupt", "batch_job": "1", "interrupted": 5}'),
    ],
)
def test_a_foreign_line_is_passed_over(path: Path, line: bytes) -> None:
    ledger = Ledger(path, "1")
    ledger.start()
    path.write_bytes(path.read_bytes() + line + b"\n")
    ledger.submitted("2")
    ledger.note(ray_job("RUNNING"))
    assert ids(Ledger(path, "2")) == ["a"]
    assert Ledger(path, "2").successor(of="1") == "2"
    assert Ledger(path, "2").goes_on("1", lost=True)
    assert Ledger(path, "2").start() == 1


def test_only_its_user_can_read_it(path: Path) -> None:
    Ledger(path, "1").start()
    assert path.stat().st_mode & 0o777 == 0o600


class TestGoesOn:
    @pytest.mark.parametrize(
        ("why", "expected"),
        [("walltime", True), ("lost", True), ("down", False), ("finished", False), ("failed", False)],
    )
    def test_as_the_predecessor_said_itself(self, path: Path, why: End, expected: bool) -> None:
        ledger = Ledger(path, "1")
        ledger.start()
        ledger.end(why)
        for state in ("NODE_FAIL", "FAILED", "CANCELLED", "TIMEOUT", None):  # whatever Slurm makes of it
            assert Ledger(path, "2").goes_on("1", lost=lost(state)) is expected

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            *((state, True) for state in ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "TIMEOUT", None)),
            *((state, False) for state in ("FAILED", "CANCELLED", "OUT_OF_MEMORY", "COMPLETED", "RUNNING")),
        ],
    )
    def test_by_slurms_word_where_it_was_killed(self, path: Path, state: str | None, expected: bool) -> None:
        Ledger(path, "1").start()
        assert Ledger(path, "2").goes_on("1", lost=lost(state)) is expected

    def test_not_in_another_clusters_ledger(self, path: Path) -> None:
        assert not Ledger(path, "2").goes_on("1", lost=True)  # none: the cluster is being started anew
        other = Ledger(path, "7")
        other.start()
        other.end("walltime")
        assert not Ledger(path, "2").goes_on("1", lost=True)

    def test_each_batch_job_of_a_chain_has_its_own_end(self, path: Path) -> None:
        Ledger(path, "1").start()
        Ledger(path, "1").end("walltime")
        Ledger(path, "2").start()
        Ledger(path, "2").end("down")
        assert Ledger(path, "").goes_on("1", lost=False)
        assert not Ledger(path, "").goes_on("2", lost=False)


def test_the_chain_of_successors(path: Path) -> None:
    assert Ledger(path, "1").successor() is None
    for predecessor, successor in (("1", "2"), ("2", "5")):
        assert Ledger(path, predecessor).start() == int(predecessor) - 1
        Ledger(path, predecessor).submitted(successor)
    assert Ledger(path, "").successor(of="1") == "2"
    assert Ledger(path, "").successor(of="5") is None
    assert Ledger(path, "").successor() == "5"


class TestParseJobs:
    def answer(self, **values: object) -> dict[str, object]:
        job = {"type": "SUBMISSION", "submission_id": "a", "entrypoint": "python a.py", "status": "RUNNING"}
        return job | {"metadata": None, "runtime_env": None} | values

    def test_a_plain_submission(self) -> None:
        environment = {"working_dir": "gcs://_ray_pkg_1.zip", "excludes": ["runs"], "env_vars": {"X": "1"}}
        [job] = parse_jobs([self.answer(runtime_env=environment)])
        assert job == RayJob("a", "python a.py", "RUNNING", None, {"env_vars": {"X": "1"}})

    def test_packages_that_die_with_the_head_are_not_asked_for_again(self) -> None:
        kept = "https://example.org/module.zip"
        [job] = parse_jobs([self.answer(runtime_env={"py_modules": ["gcs://_ray_pkg_2.zip", kept]})])
        assert job.runtime_env == {"py_modules": [kept]}
        [job] = parse_jobs([self.answer(runtime_env={"py_modules": ["gcs://_ray_pkg_2.zip"]})])
        assert job.runtime_env == {}

    def test_one_that_names_its_folder(self) -> None:
        [job] = parse_jobs([self.answer(metadata={"working_dir": "/home/u/project"})])
        assert job.working_dir == "/home/u/project"

    def test_one_that_was_taken_up_keeps_its_first_command(self) -> None:
        metadata = {"working_dir": "/x", "entrypoint": "python a.py"}
        [job] = parse_jobs([self.answer(entrypoint="cd /x && python a.py", metadata=metadata)])
        assert job.entrypoint == "python a.py"

    def test_drivers_started_by_hand_are_left_out(self) -> None:
        assert parse_jobs([self.answer(type="DRIVER", submission_id=None)]) == []

    def test_no_answer(self) -> None:
        assert parse_jobs(None) == []

    def test_what_it_gives_fits_into_the_ledger(self, path: Path) -> None:
        Ledger(path, "1").note(*parse_jobs(json.loads(json.dumps([self.answer()]))))
        assert ids(Ledger(path, "1")) == ["a"]
