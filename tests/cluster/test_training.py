"""A fine-tuning over two nodes of a Slurm cluster, one of which crashes in the middle."""

import json

import pytest
from namespaces import wait_until
from slurm_harness import Kosen
from tiny_model import make_tiny_model, write_sums

from orchestrator.training.folder import TrainingFolder, loss_curve, read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WORKERS, STEPS = 6, 120  # a node of this cluster has 4 CPUs, so both are needed


def options(kosen: Kosen, run: str) -> list[str]:
    data = [f"model={kosen.home / 'model'}", f"train={kosen.home / 'train.jsonl'}", f"run={kosen.home / run}"]
    size = ["batch_size=12", "micro_batch_size=2", "max_length=64", "epochs=10", "lr=1e-3", "save_every=5"]
    return ["submit", "sft", *data, *size, f"workers={WORKERS}", "device=cpu"]


def test_a_training_outlives_a_node_that_crashes_and_comes_back(kosen: Kosen) -> None:
    make_tiny_model(kosen.home / "model")
    write_sums(kosen.home / "train.jsonl", 144)
    kosen.up()
    quiet = kosen.run("orchestrator.submit", *options(kosen, "quiet"), timeout=400)
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    folder = TrainingFolder(kosen.home / "crashed")
    job = kosen.start("orchestrator.submit", *options(kosen, "crashed"))

    def saved() -> bool:
        return any(line["event"] == "checkpoint" and line["step"] >= 20 for line in read_journal(folder))

    wait_until(lambda: saved() or job.poll() is not None, 300, "no checkpoint of step 20")
    kosen.slurm.crash("node2")
    kosen.await_phase("degraded", 90)
    kosen.slurm.boot("node2")
    out, err = job.communicate(timeout=500)
    assert job.returncode == 0, out[-3000:] + err[-3000:]
    lines = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    starts = [line["resumed_from"] for line in lines if line["event"] == "attempt_started"]
    assert starts[0] is None and starts[-1] >= 20
    curve = loss_curve(folder, "train/loss")
    assert sorted(curve) == list(range(1, STEPS + 1))
    assert curve == pytest.approx(loss_curve(TrainingFolder(kosen.home / "quiet"), "train/loss"), abs=1e-4)
