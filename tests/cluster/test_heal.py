"""`cluster up --heal`: a replacement for a node that is lost for good."""

import signal
import sys

import pytest

from tests.support.namespaces import wait_until
from tests.support.slurm_harness import Kosen, lost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
WORKER = "node2"
# Runs only where all GPUs of two nodes are; the address of each.
WHERE = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_gpus=4)
class There:
    def where(self):
        return ray.util.get_node_ip_address()
actors = [There.remote() for _ in range(2)]
print(*sorted(ray.get([actor.where.remote() for actor in actors], timeout=60)))
"""


def await_degraded(kosen: Kosen) -> None:
    kosen.await_phase("degraded", 60)
    text = kosen.cluster("status").stdout
    assert "DEGRADED" in text
    assert WORKER in text


def where_actors_run(kosen: Kosen) -> str:
    lines = kosen.cluster("env").stdout.splitlines()
    variables = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    done = kosen.slurm.run("node1", [sys.executable, "-c", WHERE], env=variables, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_lost_node_is_replaced(kosen: Kosen) -> None:
    kosen.up()
    with lost(kosen.slurm, WORKER):
        await_degraded(kosen)
        healing = kosen.start("cluster", "up", "--heal", "--name", "c")
        kosen.await_phase("ready", 90)
        _, said = healing.communicate(timeout=20)
        assert healing.returncode == 0, said
        assert "asked Slurm for 1 node(s)" in said
        state = kosen.state()
        assert state
        [new] = [node for node in state["nodes"] if node["name"] not in ("node1", WORKER)]
        assert (state["phase"], new["gpus"]) == ("ready", 4)
        assert where_actors_run(kosen) == f"{kosen.slurm.address('node1')} {new['ip']}"
        assert len(kosen.jobs()) == 2
        again = kosen.cluster("up", "--heal", "--name", "c")
        assert "has all its 2 nodes" in again.stderr
        assert kosen.cluster("down").returncode == 0
    kosen.assert_nothing_left()
    assert kosen.state() is None


def test_a_replacement_that_must_wait_says_why_and_goes_with_the_cluster(kosen: Kosen) -> None:
    kosen.up()
    filler = kosen.home / "filler.sh"
    filler.write_text("#!/bin/bash\nexec sleep 300\n")
    with lost(kosen.slurm, WORKER):
        await_degraded(kosen)
        kosen.slurm_command("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", str(filler))
        kosen.slurm_command(
            "sbatch", "--nodes=1", "--nodelist=node1", "--gpus-per-node=4", "--output=/dev/null", str(filler)
        )
        wait_until(
            lambda: sum("filler" in job and "RUNNING" in job for job in kosen.jobs()) == 2, 20, str(kosen.jobs())
        )
        waiting = kosen.start("cluster", "up", "--heal", "--name", "c")
        assert waiting.stderr
        told, said = waiting.stderr, list[str]()

        def waits() -> bool:
            said.append(told.readline())
            return "(Resources)" in said[-1]

        wait_until(waits, 30, f"said {said}")
        assert f"without {WORKER}; replacement pending" in said[-1]
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(20) == 130
        again = kosen.start("cluster", "up", "--heal", "--name", "c")  # does not ask twice
        assert again.stderr
        assert "on its way already" in again.stderr.readline()
        again.send_signal(signal.SIGINT)
        again.wait(20)
        assert kosen.cluster("down").returncode == 0
        assert all("filler" in job for job in kosen.jobs())
        kosen.slurm_command("scancel", "--name=filler.sh")
    kosen.assert_nothing_left()
