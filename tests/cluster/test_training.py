"""A fine-tuning over two nodes of a Slurm cluster, one of which crashes in the middle: for good, and for a while."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cluster.files import REPOSITORY
from orchestrator.training.folder import TrainingFolder, loss_curve, read_journal
from tests.support.namespaces import wait_until
from tests.support.slurm_harness import Driver, Kosen
from tests.support.tiny_model import make_tiny_model, write_sums

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WORKERS, STEPS = 6, 120  # a node of this cluster has 4 CPUs, so both are needed
RETURN_SECONDS = 15
# The job with less patience for a lost node than a user's: `python -c IMPATIENT key=value …` on the head.
IMPATIENT = f"""
import sys
from jobs import sft
from orchestrator.errors import run_command
from orchestrator.training.supervision import supervisor
supervisor.RETURN_SECONDS = {RETURN_SECONDS}
run_command(lambda: sft.main(sys.argv[1:]))
"""


def options(kosen: Kosen, run: str) -> list[str]:
    data = [f"model={kosen.home / 'model'}", f"train={kosen.home / 'train.jsonl'}", f"run={kosen.home / run}"]
    size = ["batch_size=12", "micro_batch_size=2", "max_length=64", "epochs=10", "lr=1e-3", "save_every=5"]
    return [*data, *size, f"workers={WORKERS}", "device=cpu"]


def submit(kosen: Kosen, run: str) -> "subprocess.Popen[str]":
    return kosen.start("orchestrator.submit", "submit", "sft", *options(kosen, run))


def start_impatient(kosen: Kosen, run: str) -> Driver:
    log = kosen.home / "impatient.log"
    variables = {"KOSEN_HOME": str(kosen.home), "KOSEN_CLUSTER": "c", "PYTHONPATH": str(REPOSITORY)}
    variables["TMPDIR"] = str(kosen.home)  # torch leaves a folder there, and later tests look for what is left
    command = [sys.executable, "-c", IMPATIENT, *options(kosen, run)]
    with log.open("w") as file:
        return Driver(kosen.slurm.popen("node1", command, env=variables, stdout=file, stderr=file), log)


def crash_after(kosen: Kosen, folder: TrainingFolder, step: int, job: "subprocess.Popen[str]") -> None:
    def saved() -> bool:
        return any(line["event"] == "checkpoint" and line["step"] >= step for line in read_journal(folder))

    wait_until(lambda: saved() or job.poll() is not None, 300, f"no checkpoint of step {step}")
    kosen.slurm.crash("node2")


def events(folder: TrainingFolder, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def test_a_training_outlives_a_node_that_crashes(kosen: Kosen) -> None:
    make_tiny_model(kosen.home / "model")
    write_sums(kosen.home / "train.jsonl", 144)
    kosen.up()
    quiet = submit(kosen, "quiet")
    out, err = quiet.communicate(timeout=400)
    assert quiet.returncode == 0, out + err

    folder = TrainingFolder(kosen.home / "crashed")
    impatient = start_impatient(kosen, "crashed")
    crash_after(kosen, folder, 20, impatient.process)
    code, text = impatient.wait(RETURN_SECONDS + 100), impatient.output()
    assert code == 4, text[-3000:]
    lack = "the cluster has 4 of the 6 CPUs that this training needs (without node2)"
    assert f"{lack}; waiting for a node to return, at most {RETURN_SECONDS} s" in text
    [error] = [line for line in text.splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: {lack}, and the rest has not returned within {RETURN_SECONDS} s; the newest good")
    assert "make cluster-status" in error and "Traceback" not in text

    job = submit(kosen, "crashed")  # while the node is still gone: it is waited for
    wait_until(lambda: len(events(folder, "waiting")) == 2 or job.poll() is not None, 120, "nothing is waited for")
    kosen.slurm.boot("node2")
    crash_after(kosen, folder, 60, job)
    kosen.await_phase("degraded", 90)
    kosen.slurm.boot("node2")
    out, err = job.communicate(timeout=500)
    assert job.returncode == 0, out[-3000:] + err[-3000:]
    starts = [line["resumed_from"] for line in events(folder, "attempt_started")]
    assert starts[0] is None and starts[-1] >= 60
    curve = loss_curve(folder, "train/loss")
    assert sorted(curve) == list(range(1, STEPS + 1))
    assert curve == pytest.approx(loss_curve(TrainingFolder(kosen.home / "quiet"), "train/loss"), abs=1e-4)
