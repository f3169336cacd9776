"""Signs of life: what the writer counts of them, what the driver makes of that, and how it waits for what may hang."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.concurrency import patience
from orchestrator.errors import StorageFailed
from orchestrator.events import Events
from orchestrator.records.pulse import SILENT, Beat, Heart, Life, Pulses, Traffic
from orchestrator.steering import liveness
from orchestrator.steering.liveness import ENDS, Liveness, Silences
from tests.support.harness import Said, seconds_to_end, start_python, wait_for

ONE, TWO = Life("n1", 1, 1.0), Life("n2", 2, 2.0)


def ticked(pulses: Pulses, seconds: int) -> list[Beat]:
    for _ in range(seconds):
        pulses.tick()
    return pulses.silent(SILENT)


def test_an_actor_that_has_work_and_is_silent_is_told_of() -> None:
    pulses = Pulses()
    last = Beat(ONE, "predict", True, 4, 10)
    pulses.add(last)
    assert ticked(pulses, SILENT - 1) == []
    pulses.add(Beat(TWO, "predict", True, 4, 10))
    assert ticked(pulses, 1) == [last]
    pulses.forgive(ONE)
    assert ticked(pulses, SILENT - 2) == []
    assert ticked(pulses, 1) == [Beat(TWO, "predict", True, 4, 10)]  # the one that was ended had its last word


def test_one_without_work_may_be_silent_for_ever() -> None:
    pulses = Pulses()
    pulses.add(Beat(ONE, "judge", True, 4, 10))
    pulses.add(Beat(ONE, "judge", False, 0, 14))
    assert ticked(pulses, 10 * SILENT) == []


def test_a_writer_that_hung_itself_blames_nobody() -> None:
    """Seconds count by its own ticks: after an hour without any, its first look finds nobody silent."""
    pulses = Pulses()
    pulses.add(Beat(ONE, "predict", True, 4, 10))
    assert ticked(pulses, 1) == []


def test_traffic_is_the_sum_over_a_stages_actors() -> None:
    pulses = Pulses()
    pulses.add(Beat(ONE, "predict", True, 4, 10))
    pulses.add(Beat(TWO, "predict", True, 3, 5))
    pulses.add(Beat(TWO._replace(pid=3), "judge", True, 1, 2))
    assert pulses.traffic() == {"predict": Traffic(7, 15), "judge": Traffic(1, 2)}


class Writer:
    """Takes beats as the writer's actor does."""

    def __init__(self) -> None:
        self.beats: list[Beat] = []
        self.beat = SimpleNamespace(remote=self._beat)

    def _beat(self, beat: Beat) -> "Done":
        self.beats.append(beat)
        return Done()


class Done:
    """What a call of Ray's gives at once."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def test_a_heart_beats_while_there_is_work_and_says_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.records.pulse.BEAT", 0.02)
    monkeypatch.setattr("orchestrator.records.pulse.Life.of_this_process", lambda: ONE)
    writer, client = Writer(), SimpleNamespace(in_flight=3, heard=7)

    async def work() -> None:
        heart = Heart(writer, "predict", client)
        async with heart.busy():
            async with heart.busy():
                time.sleep(0.2)  # noqa: ASYNC251 - a busy event loop does not mean that it is dead
            assert writer.beats[-1].busy
            await asyncio.sleep(0.1)
        assert not writer.beats[-1].busy
        count = len(writer.beats)
        await asyncio.sleep(0.1)
        assert len(writer.beats) == count
        async with heart.busy():
            await asyncio.sleep(0.05)

    asyncio.run(work())
    assert len(writer.beats) > 8
    assert writer.beats[0] == Beat(ONE, "predict", True, 3, 7)
    assert not writer.beats[-1].busy


@pytest.mark.parametrize(
    ("looks", "seconds"),  # (second, in flight, heard)
    [
        ([(0, 4, 1), (100, 4, 1)], 100),
        ([(0, 4, 1), (100, 4, 2)], 0),
        ([(0, 4, 1), (100, 0, 1), (150, 0, 1)], 0),  # nothing is asked
        ([(0, 0, 1), (100, 4, 1), (150, 4, 1)], 150),
        ([(0, 4, 9), (100, 4, 3), (130, 4, 3)], 30),  # an actor that was started anew
    ],
)
def test_how_long_an_endpoint_says_nothing(looks: list[tuple[int, int, int]], seconds: int) -> None:
    silences = Silences()
    for now, in_flight, heard in looks:
        found = silences.observe(now, {"judge": Traffic(in_flight, heard)})
    assert found == {"judge": seconds}


def seen(traffic: Any = None, *, silent: Any = (), syncing: float = 0.0, predicted: int = 0) -> Any:
    return SimpleNamespace(predicted=predicted, judged=0, silent=silent, traffic=traffic or {}, syncing=syncing)


@pytest.mark.parametrize(("new_records", "ended"), [(False, ENDS), (True, 5)])
def test_a_row_that_hangs_each_actor_does_not_end_actors_for_ever(
    new_records: bool, ended: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: list[Life] = []

    def end_process(life: Life) -> bool:
        ends.append(life)
        return True

    monkeypatch.setattr(liveness, "end_process", end_process)
    writer = SimpleNamespace(forgive=SimpleNamespace(remote=lambda life: None))
    watch = Liveness(writer, lambda *_, **__: None, elsewhere=[], endless={})
    for number in range(5):
        hung = Beat(ONE._replace(pid=number), "judge", True, 0, 0)
        watch.poll(seen(silent=[hung], predicted=number if new_records else 0))
        if number >= ended:
            watch.poll(seen(silent=[hung]))
    assert len(ends) == ended
    said = capsys.readouterr().err
    assert (said.count("It is restarted"), said.count("is left alone")) == (ended, 5 - ended)


def test_a_silent_endpoint_is_said_once_and_a_judges_stage_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("orchestrator.steering.liveness.time.monotonic", lambda: clock[0])
    events: list[str] = []
    watch = Liveness(
        None, lambda event, **_: events.append(event), elsewhere=["predict", "judge"], endless={"judge": 660}
    )
    given_up: list[tuple[float, list[Any]]] = []
    for clock[0] in range(0, 2000, 10):
        traffic = {"predict": Traffic(4, int(clock[0])), "judge": Traffic(2, 5)}
        if stages := watch.poll(seen(traffic)):
            given_up.append((clock[0], stages))
    assert given_up[0] == (660, ["judge"])
    assert events == ["endpoint_silent"]
    said = capsys.readouterr().err
    assert said.count("judge: 2 requests are under way, no response for 120 s") == 1
    assert "predict" not in said


def test_our_own_engines_and_a_slow_disk(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Liveness(None, lambda *_, **__: None, elsewhere=[], endless={})
    for syncing in (0.0, 3.0, 9.0, 12.0, 0.0, 11.0):
        assert watch.poll(seen({"predict": Traffic(4, 1)}, syncing=syncing)) == []
    assert capsys.readouterr().err.count("the disk has taken") == 2


def test_a_wait_is_said_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "QUIET", 0.2)
    monkeypatch.setattr(patience, "SLICE", 0.05)
    assert patience.attend(lambda: 7, "quick") == 7
    patience.attend(lambda: time.sleep(0.6), "slow")
    said = capsys.readouterr().err
    assert said.count("slow has not answered for") == said.count("slow answers again after") == 1
    assert "quick" not in said


def test_what_the_other_thread_raises_is_raised_here() -> None:
    def fail() -> None:
        raise StorageFailed("full")

    with pytest.raises(StorageFailed, match="full"):
        patience.attend(fail, "a disk")


# A FIFO without a reader: `open` hangs in the kernel, as on a hung NFS server.
HUNG = """
import sys
from pathlib import Path
from orchestrator.concurrency import patience
from orchestrator.errors import run_command
from orchestrator.events import Events
patience.QUIET = 1.0
print("ready", flush=True)
run_command(lambda: Events(Path(sys.argv[1])).add("planned") or 0)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_folder_that_hangs_is_said_and_ctrl_c_works(number: signal.Signals, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    job = start_python("-c", HUNG, str(tmp_path))
    said = Said(job)
    assert job.stdout and job.stdout.readline() == "ready\n"
    wait_for(lambda: "has not answered for" in said, 10, "a sentence")
    assert seconds_to_end(job, number) < 5
    assert job.returncode == 130
    assert "run the same command to resume" in said.all() and "Traceback" not in said


def test_events_are_appended_in_order(tmp_path: Path) -> None:
    events = Events(tmp_path)
    for number in range(3):
        events.add("tick", number=number)
    assert [line.split('"number":')[1] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [
        "0}",
        "1}",
        "2}",
    ]
