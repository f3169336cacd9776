"""How a cluster ends, and that nothing of it is left: processes, ports, folders, Slurm steps."""

import pytest

from tests.support.slurm_harness import Kosen, kill_titled

pytestmark = pytest.mark.slow
HEAD, WORKER = "node1", "node2"


def test_the_gcs_is_everybodys_end(kosen: Kosen) -> None:
    state = kosen.up()
    kill_titled(kosen.slurm, HEAD, "gcs_server")
    kosen.assert_nothing_left()
    assert kosen.exit_code(state["job_id"]) == 4
    failed = kosen.state()
    assert failed is not None
    assert failed["phase"] == "failed"
    assert "head on node1" in failed["problem"]
    assert kosen.cluster("status").returncode == 4


def test_a_killed_batch_script_leaves_nothing(kosen: Kosen) -> None:
    state = kosen.up()
    kill_titled(kosen.slurm, HEAD, "-m cluster.head.batch")
    kosen.assert_nothing_left()
    assert kosen.exit_code(state["job_id"]) != 0
    assert "gone" in kosen.cluster("status").stdout


def test_scancel_leaves_nothing(kosen: Kosen) -> None:
    state = kosen.up()
    kosen.slurm_command("scancel", state["job_id"])
    kosen.assert_nothing_left()
    assert kosen.state() is None


def test_a_link_cut_for_good_degrades_the_cluster_and_the_rest_goes_on(kosen: Kosen) -> None:
    kosen.up()
    kosen.slurm.cut(WORKER)
    try:
        kosen.await_phase("degraded", 60)
        text = kosen.cluster("status").stdout
        assert "DEGRADED" in text
        assert f"without {WORKER}" in text
        kosen.slurm.set_down(WORKER, "test: cut for good")
        job = kosen.driver(HEAD, "import ray; ray.init(log_to_driver=False); print(ray.get(ray.put(7)))")
        assert job.wait(60) == 0, job.output()
    finally:
        kosen.slurm.heal(WORKER)
    kosen.cluster("down")
    kosen.assert_nothing_left(30)  # the node's own process hears of it only now
