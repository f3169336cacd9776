"""Scores an exam: a run folder (`--config FILE key=value …`), or files in HLE's official layouts from elsewhere:

    python -m jobs.score --judged FILE --dataset FILE --out DIR --json

Neither needs a cluster, and the second not even Ray.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jobs import leaderboard
from jobs.tasks import answers, hle, metrics
from orchestrator.datasource import read_rows
from orchestrator.errors import COMPLETE, Parser, SpecError, run_command, storage_error
from orchestrator.records import Judgement, Prediction, Usage

FIRST_FIGURES = (
    "accuracy",
    "accuracy_half_width",
    "accuracy_wilson",
    "calibration_error_official",
    "calibration_error",
    "n_total",
    "n_answered",
    "n_judged",
)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or any(word.split("=")[0] in ("--judged", "--dataset", "--help", "-h") for word in argv):
        return _score_files(argv)
    return _score_run(argv)


def _score_run(argv: Sequence[str]) -> int:
    """Score what a run folder holds, against the spec that it was made with, or another one's questions and judge."""
    from jobs.cli import parse
    from jobs.report import report
    from orchestrator.state import run_root

    command = parse("score", "Score the recorded answers and verdicts of an exam.", argv)
    folder = run_root() / command.spec.run_name
    if not folder.is_dir():
        raise SpecError(f"there is no run folder {folder}. Give run=<folder>, or make it: python -m jobs.evaluate …")
    return report(folder, command.spec, command.items, as_json=command.as_json)


def _score_files(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if not (arguments.judged and arguments.dataset):
        raise SpecError("give --judged FILE and --dataset FILE; python -m jobs.score --help shows all arguments")
    figures = score_official(arguments.judged, arguments.dataset, arguments.out)
    if arguments.json:
        print(json.dumps(figures, ensure_ascii=False, indent=2))
    else:
        print_figures(figures)
    return COMPLETE


def score_official(judged: Path, dataset: str, out: Path | None = None) -> dict[str, Any]:
    """Score a judged file in HLE's official schema over all rows of `dataset`, those of FIRST_FIGURES first.

    With `out`, write `out`/metrics.json and a leaderboard folder too. Raises SpecError for a file that is missing or
    not in its schema, StorageFailed when `out` cannot be written.
    """
    entries = _read_entries(judged)
    items = _read_items(dataset)
    if not entries.keys() & items.keys():
        raise SpecError(
            f"none of the {len(entries)} ids in {judged} is in {dataset}; expected the set it was judged on"
        )
    pairs = [_answer(identity, entry) for identity, entry in entries.items()]
    categories = {identity: item.category for identity, item in items.items()}
    scores = metrics.score(categories, 1, (outcome(prediction, judgement) for prediction, judgement in pairs))
    figures = {name: scores[name] for name in FIRST_FIGURES} | scores
    if out:
        leaderboard.write_leaderboard(out, pairs[0][0]["model"], items, pairs, figures)
        write_metrics(out / "metrics.json", figures)
    return figures


def write_metrics(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures as indented JSON. Raises StorageFailed."""
    try:
        leaderboard.write_json(path, figures)
    except OSError as error:
        raise storage_error(error, path) from None


def print_figures(figures: Mapping[str, Any]) -> None:
    """Show the score, what it rests on, and a category a row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    by_category = Table("category", "accuracy", "judged", "asked", box=box.SIMPLE_HEAD)
    for column in by_category.columns[1:]:
        column.justify = "right"
    for name, row in figures["categories"].items():
        by_category.add_row(name, _percent(row["accuracy"]), str(row["n_judged"]), str(row["n_total"]))
    console = Console(highlight=False, soft_wrap=True)
    console.print(by_category)
    for name, text in _summary_lines(figures):
        console.print(f"  {name:<18} {text}", markup=False)


def _summary_lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of what is worth a line; a figure that was not measured says so."""
    yield (
        "accuracy",
        f"{_percent(figures['accuracy'])} ± {_shown(figures['accuracy_half_width'])}, Wilson "
        + (" to ".join(map(_percent, figures["accuracy_wilson"])) if figures["accuracy_wilson"] else "not measured"),
    )
    yield "of the judged", _percent(figures["accuracy_judged"])
    if figures["samples_per_question"] > 1:
        k = figures["samples_per_question"]
        yield f"k = {k}", f"avg@{k} {_percent(figures['avg_at_k'])}, pass@{k} {_percent(figures['pass_at_k'])}"
    official = _percent(figures["calibration_error_official"])
    yield "calibration error", f"{_percent(figures['calibration_error'])}, by the official formula {official}"
    yield "answers", _counts(figures, "n_total", "n_answered", "n_truncated", "n_failed", "n_missing")
    yield "verdicts", _counts(figures, "n_judged", "n_unjudged")
    odd = _counts(
        figures,
        "n_confidence_defaulted",
        "n_confidence_out_of_range",
        "n_unknown_category",
        "n_unknown_id",
        only_present=True,
    )
    if odd:
        yield "noticed", odd
    if figures.get("tokens"):
        tokens = figures["tokens"]
        yield "tokens", f"{tokens['prompt_tokens']:,} prompt, {tokens['completion_tokens']:,} completion"
    if figures.get("predict_seconds") is not None:
        yield "time", f"{figures['predict_seconds']:,} s with requests under way"
    if figures.get("cost") is not None:
        yield "cost", str(figures["cost"])


def _counts(figures: Mapping[str, Any], *names: str, only_present: bool = False) -> str:
    shown = [name for name in names if figures[name] or not only_present]
    return ", ".join(f"{figures[name]} {name.removeprefix('n_').replace('_', ' ')}" for name in shown)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} %"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _parser() -> Parser:
    parser = Parser(prog="python -m jobs.score", description=__doc__)
    parser.add_argument("--judged", type=Path, metavar="FILE", help="judged answers in HLE's official schema")
    parser.add_argument("--dataset", metavar="FILE", help="the questions: JSON, JSONL, CSV, Parquet, or a hub name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where metrics.json and leaderboard/ are written")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _read_items(dataset: str) -> dict[str, hle.Item]:
    try:
        return {item.id: item for item in hle.items_from_rows(read_rows(dataset, columns=hle.COLUMNS))}
    except ValueError as error:
        raise SpecError(f"{dataset}: {error}") from None


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SpecError(f"there is no judged file {path} (looked from {Path.cwd()})") from None
    except OSError as error:
        raise SpecError(f"cannot read the judged file {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the judged file {path} is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise SpecError(f"the judged file {path} holds a {type(entries).__name__}, expected an object of id: entry")
    for identity, entry in entries.items():
        if not isinstance(entry, dict):
            raise SpecError(
                f"the judged file {path}: the entry {identity!r} is a {type(entry).__name__}, not an object"
            )
    return entries


def _answer(identity: str, entry: Mapping[str, Any]) -> leaderboard.Answer:
    """An official entry as our records; what its schema does not have is None or empty."""
    response = entry.get("response")
    text = response if isinstance(response, str) else None
    model = str(entry.get("model", "unknown"))
    prediction = Prediction(
        id=identity,
        sample=0,
        status="failed" if text is None else "ok",
        reason="empty" if text is None else None,
        detail=None,
        response=text,
        reasoning=None,
        finish_reason=None,
        usage=_usage(entry.get("usage")),
        attempts=1,
        started_at="",
        seconds=0.0,
        model=model,
        endpoint="",
        fingerprint="",
        spec="",
        prompt_sha256="",
    )
    stated = entry.get("judge_response")
    return prediction, _judgement(identity, stated) if isinstance(stated, dict) else None


def _judgement(identity: str, stated: Mapping[str, Any]) -> Judgement:
    answer, reasoning = stated.get("model_answer"), stated.get("reasoning")
    return Judgement(
        id=identity,
        sample=0,
        prediction="",
        verdict=_verdict(stated.get("correct")),
        reason=None,
        extracted_answer=None if answer is None else str(answer),
        reasoning=None if reasoning is None else str(reasoning),
        confidence=_confidence(stated.get("confidence")),
        judge={"model": "unknown", "prompt_sha256": "", "sampling": {}},
        usage=None,
        attempts=1,
    )


def _verdict(correct: Any) -> Literal["yes", "no", "unjudged"]:
    """The official code takes any text with "yes" in it; what says neither yes nor no is no verdict."""
    if isinstance(correct, str) and "yes" in correct:
        return "yes"
    return "no" if isinstance(correct, str) and "no" in correct.lower() else "unjudged"


def _confidence(value: Any) -> int | None:
    """Integers as they are, as the official code takes them; other forms as a judge's reply is read."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= answers.LARGEST_CONFIDENCE:
        return value
    return answers.percent(value)


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = (_count(value.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def outcome(prediction: Prediction, judgement: Judgement | None) -> metrics.Outcome:
    """What the score needs of a prediction and its verdict."""
    usage = prediction["usage"] or Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    return metrics.Outcome(
        id=prediction["id"],
        sample=prediction["sample"],
        status=prediction["status"],
        verdict=judgement["verdict"] if judgement else None,
        confidence=judgement["confidence"] if judgement else None,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


if __name__ == "__main__":
    run_command(main)
