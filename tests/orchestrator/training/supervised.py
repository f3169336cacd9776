"""The job that the supervisor's tests run as a process: python supervised.py RUN_FOLDER TIMEOUT."""

import os
import sys
from pathlib import Path

from orchestrator.errors import run_command
from orchestrator.training import supervisor
from orchestrator.training.folder import TrainingFolder


def main() -> int:
    folder = TrainingFolder(Path(sys.argv[1]))
    supervisor.PAUSE = float(os.environ.get("SCRIPTED_PAUSE", "0.1"))
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    supervisor.supervise(
        folder, "scripted_trainer", timeout=float(sys.argv[2]), max_failures=3, environment=environment
    )
    return 0


if __name__ == "__main__":
    run_command(main)
