"""What a supervisor reads out of a trainer's journal."""

from pathlib import Path

from orchestrator.training.folder import Journal, TrainingFolder
from orchestrator.training.supervision.watch import Watch


def test_progress_shows_steps_and_what_was_measured(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    journal = Journal(folder)
    with Watch(folder) as watch:
        watch.read()
        journal.total(8, 2)
        journal.step(3, {"train/loss": 0.51234, "val/loss": 2.0})
        watch.read()
        assert watch.step == 3 and note(watch) == "loss 0.5123"
        journal.step(4, {"critic/score/mean": 0.25, "perf/total_num_tokens": 9000, "perf/time_per_step": 3})
        journal.phase("validating")
        watch.read()
        assert note(watch) == "score 0.25, 3,000 tokens/s, validating"


def note(watch: Watch) -> str:
    [task] = watch._bars._progress.tasks  # type: ignore[union-attr]
    assert task.total == 8
    return str(task.fields["note"])
