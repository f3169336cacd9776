"""A short run of benchmarks/fuzz_training_data.py: files whose rows are spoiled in every way, by fixed seeds."""

from pathlib import Path

import pytest

from benchmarks.fuzz_training_data import try_file
from orchestrator.training.data import convert


@pytest.mark.parametrize("seed", range(1, 41))
def test_every_row_is_kept_or_dropped_with_a_reason(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "BATCH_ROWS", 20)
    assert try_file(seed, tmp_path, rows=100)
