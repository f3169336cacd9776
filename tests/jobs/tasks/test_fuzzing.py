"""A few thousand random replies and rows each time; benchmarks/fuzz_verdicts.py takes as many as one has time for."""

from pathlib import Path

from benchmarks import fuzz_verdicts


def test_random_replies_raise_nothing() -> None:
    results = fuzz_verdicts.fuzz("replies", fuzz_verdicts.read_reply, 2000, seed=1)
    assert min(results[verdict] for verdict in ("yes", "no", "unjudged")) > 10, "they reach all ends"


def test_random_rows_are_taken_or_refused(tmp_path: Path) -> None:
    results = fuzz_verdicts.fuzz("rows", fuzz_verdicts.make_items, 2000, seed=1)
    results += fuzz_verdicts.fuzz(
        "files", lambda chance: fuzz_verdicts.read_file(chance, tmp_path / "rows"), 300, seed=1
    )
    assert min(results["taken"], results["refused"]) > 100
