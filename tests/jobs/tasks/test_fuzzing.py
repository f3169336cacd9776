"""A few thousand random replies, rows and answers each time; benchmarks/fuzz_*.py take as many as one has time for."""

from pathlib import Path

from benchmarks import fuzz_answers, fuzz_verdicts


def test_random_replies_raise_nothing() -> None:
    results = fuzz_verdicts.fuzz("replies", fuzz_verdicts.read_reply, 2000, seed=1)
    assert min(results[verdict] for verdict in ("yes", "no", "unjudged")) > 10, "they reach all ends"


def test_random_rows_are_taken_or_refused(tmp_path: Path) -> None:
    results = fuzz_verdicts.fuzz("rows", fuzz_verdicts.make_items, 2000, seed=1)
    results += fuzz_verdicts.fuzz(
        "files", lambda chance: fuzz_verdicts.read_file(chance, tmp_path / "rows"), 300, seed=1
    )
    assert min(results["taken"], results["refused"]) > 100


def test_random_answers_are_read_and_compared() -> None:
    counts, failures = fuzz_answers.fuzz(2000, seed=1, slow=2)
    assert not failures
    assert min(counts["an answer"], counts["no answer"]) > 100
