"""What a cluster survives: killed processes, a rebooted node, a cut link. The faults are real, as are Slurm and Ray."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import numbered, records, write_exam
from tests.support.mini_slurm import MiniSlurm
from tests.support.namespaces import wait_until
from tests.support.scripted_server import ScriptedServer
from tests.support.slurm_harness import Kosen, ended, kill_titled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
WORKER = "node2"
# Holds an actor on the worker for 20 s and asks it once a second; ends with 0 when every answer came.
TALK = """
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_gpus=4)
class There:
    def add(self, a, b):
        return a + b
    def where(self):
        return ray.util.get_node_ip_address()
actors = [There.remote() for _ in range(2)]
print(sorted(ray.get([actor.where.remote() for actor in actors])), flush=True)
end = time.time() + 20
while time.time() < end:
    assert ray.get([actor.add.remote(2, 3) for actor in actors], timeout=60) == [5, 5]
    time.sleep(1)
print("all answers came")
"""


@pytest.fixture(scope="module")
def running(slurm: MiniSlurm) -> Iterator[Kosen]:
    """One cluster of two nodes for the faults that it survives."""
    kosen = Kosen(slurm, Path(tempfile.mkdtemp(dir=slurm.directory / "home")))
    with ended(kosen):
        kosen.up()
        yield kosen


def whole(kosen: Kosen) -> bool:
    status, state = kosen.status(), kosen.state()
    if state is None or state["phase"] != "ready":
        return False
    return status["verdict"] == "ready" and [node["ray"] for node in status["nodes"]] == ["alive", "alive"]


def await_whole(kosen: Kosen, seconds: float) -> float:
    """Until Ray has both nodes again; the seconds that took."""
    started = time.monotonic()
    wait_until(lambda: whole(kosen), seconds, f"not whole: {kosen.status()}\n{kosen.logs()}")
    return time.monotonic() - started


def raylet(kosen: Kosen, node: str) -> int | None:
    pids = [p.pid for p in kosen.slurm.processes(node) if "raylet/raylet" in p.command.split(" ")[0]]
    return pids[0] if pids else None


def test_a_killed_raylet_comes_back(running: Kosen) -> None:
    before = raylet(running, WORKER)
    os.kill(before or 0, 9)
    wait_until(lambda: raylet(running, WORKER) not in (None, before), 60, "no new raylet")
    await_whole(running, 60)
    assert len(running.slurm.temp_entries(WORKER)) == 1  # the old one's folder went with it


def test_a_killed_node_process_is_replaced_and_its_ray_ended(running: Kosen) -> None:
    before = raylet(running, WORKER)
    kill_titled(running.slurm, WORKER, "cluster.node.agent", "worker")
    wait_until(lambda: raylet(running, WORKER) != before, 15, "the guard did not end the orphaned Ray")
    running.await_phase("degraded", 30)
    await_whole(running, 90)
    assert len(running.slurm.temp_entries(WORKER)) == 1


def test_a_link_cut_for_8_s_goes_unnoticed_by_a_job(running: Kosen) -> None:
    before = raylet(running, WORKER)
    job = running.driver("node1", TALK)
    wait_until(lambda: "10." in job.output(), 60, "the job did not start")
    running.slurm.cut(WORKER)
    time.sleep(8)
    running.slurm.heal(WORKER)
    assert job.wait(90) == 0, job.output()
    assert "all answers came" in job.output()
    assert raylet(running, WORKER) == before


def test_a_node_rejoins_after_its_link_was_cut_for_40_s(running: Kosen) -> None:
    running.slurm.cut(WORKER)
    try:
        cut = time.monotonic()
        running.await_phase("degraded", 60)
        assert WORKER in str(running.status()["problem"])
        time.sleep(max(0.0, 40 - (time.monotonic() - cut)))
    finally:
        running.slurm.heal(WORKER)
    await_whole(running, 120)


def test_an_evaluation_finishes_complete_although_a_node_dies(running: Kosen) -> None:
    questions = numbered(2500)
    with ScriptedServer(latency=5.0, host=f"{running.slurm.net}.254") as server:
        exam = write_exam(running.home / "exam.jsonl", questions)
        options = ["num_workers=1024", f"dataset={exam}", "model=scripted", "provider=compatible", "judge=rule"]
        folder = running.home / "run"
        job = running.start(
            *("orchestrator.submit", "submit", "evaluate"), *options, f"base_url={server.base_url}", f"run={folder}"
        )
        predictions = folder / "predictions.jsonl"
        wait_until(lambda: len(records(predictions)) >= 40, 120, f"no answers: {running.logs()[-3000:]}")
        assert [p for p in running.slurm.processes(WORKER) if "MapWorker" in p.command]  # some of the work is there
        running.slurm.crash(WORKER)
        out, err = job.communicate(timeout=240)
        assert job.returncode == 0, out[-3000:] + err[-3000:]
    ids = [int(record["id"], 16) for record in records(predictions)]
    assert sorted(ids) == list(range(2500))
    assert len(records(folder / "judgements.jsonl")) == 2500
    running.slurm.boot(WORKER)
    await_whole(running, 120)


def test_a_node_that_crashed_and_booted_in_time_comes_back(running: Kosen) -> None:
    running.slurm.crash(WORKER)
    running.await_phase("degraded", 60)
    running.slurm.boot(WORKER)
    await_whole(running, 120)
    assert len(running.slurm.temp_entries(WORKER)) == 1  # what the crash left was swept
