"""A trainer of six steps with a checkpoint every second, that keeps to the contract and fails as its script says.

`behaviour` in the run folder has a word for each attempt, the last for all that follow: `crash@3` crashes in step 3.
"""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import Failure, Journal, TrainingFolder

STEPS = 6
REPORTED = ("nan", "reward", "data", "disk")
LACK = "the cluster has 4 of the 6 CPUs that this training needs (without node2)"


def main() -> int:
    folder = TrainingFolder(Path(sys.argv[1]))
    attempt = len(list(folder.logs.iterdir()))
    words = (folder.path / "behaviour").read_text().split()
    what, _, at = words[min(attempt, len(words)) - 1].partition("@")
    journal = Journal(folder)
    journal.phase("starting")
    (folder.path / "pid").write_text(str(os.getpid()))
    if what in ("starve", "refuse"):
        lose_node(folder, what)
    start = load(folder, journal, what, int(at or 0))
    journal.total(STEPS, start)
    for step in range(start + 1, STEPS + 1):
        if step == int(at or 0):
            misbehave(folder, what, step)
        time.sleep(0.3 if what == "slow" else 0.02)
        journal.step(step, {"train/loss": 1 / step, "train/global_tokens": 1000})
        stop = folder.stop_asked()
        if step % 2 == 0 or stop:
            save(folder, journal, step)
        if stop:
            return 130
    return 0


def lose_node(folder: TrainingFolder, what: str) -> None:
    """Before any worker runs: Ray Train waits for the node in silence, verl's PPO fails."""
    (folder.path / "lack").write_text(LACK)
    if what == "starve":
        time.sleep(600)
    sys.exit(1)


def load(folder: TrainingFolder, journal: Journal, what: str, at: int) -> int:
    tracker = folder.checkpoints / "latest_checkpointed_iteration.txt"
    if not tracker.exists():
        return 0
    step = int(tracker.read_text())
    with zipfile.ZipFile(folder.checkpoints / f"global_step_{step}" / "data.pt") as archive:
        assert archive.read("step") == str(step).encode()
    if what == "unloadable" and step >= at:
        folder.report_failure(Failure("checkpoint", f"the weights of global_step_{step} do not fit the model", step))
        sys.exit(1)
    return step


def save(folder: TrainingFolder, journal: Journal, step: int) -> None:
    journal.phase("saving")
    path = folder.checkpoints / f"global_step_{step}"
    path.mkdir(parents=True)
    with zipfile.ZipFile(path / "data.pt", "w") as archive:
        archive.writestr("step", str(step))
    checkpoints.seal(path)
    journal.checkpoint(step)


def misbehave(folder: TrainingFolder, what: str, step: int) -> None:
    match what:
        case "crash":
            raise RuntimeError("the scripted crash")
        case "lost":
            (folder.path / "lack").write_text(LACK)
            sys.exit(1)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang" | "deaf":
            if what == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with_child(folder)
            time.sleep(600)
        case "torn":
            with folder.journal.open("ab") as stream:
                stream.write(b'{"event": "st')
            sys.exit(1)
        case "unfinished":
            sys.exit(0)
        case _ if what in REPORTED:
            folder.report_failure(Failure(what, f"the scripted {what} failure of step {step}", step))  # type: ignore[arg-type]
            sys.exit(1)


def with_child(folder: TrainingFolder) -> None:
    """As a data loader would have one, and one that listens to nothing."""
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    (folder.path / "child").write_text(str(child.pid))


if __name__ == "__main__":
    sys.exit(main())
