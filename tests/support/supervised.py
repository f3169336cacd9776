"""The job that the supervisor's tests run as a process: python -m tests.support.supervised RUN_FOLDER
TIMEOUT."""

import os
import sys
from pathlib import Path

from cluster.files import REPOSITORY
from orchestrator.errors import run_command
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.supervision import supervisor


def main() -> int:
    folder = TrainingFolder(Path(sys.argv[1]))
    lack = folder.path / "lack"  # what the cluster lacks, while there is such a file
    supervisor.PAUSE = float(os.environ.get("SCRIPTED_PAUSE", "0.1"))
    supervisor.RETURN_SECONDS = float(os.environ.get("SCRIPTED_RETURN", "60"))
    supervisor.TELL_SECONDS = float(os.environ.get("SCRIPTED_TELL", "60"))
    environment = {"PYTHONPATH": str(REPOSITORY)}
    supervisor.supervise(
        folder,
        "tests.support.scripted_trainer",
        timeout=float(sys.argv[2]),
        max_failures=3,
        environment=environment,
        missing=lambda: lack.read_text() if lack.exists() else None,
    )
    return 0


if __name__ == "__main__":
    run_command(main)
