"""The figures of an exam as people read them on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.streams import visible

LONGEST_DETAIL = 300  # characters of a server's words


def print_figures(figures: Mapping[str, Any]) -> None:
    """Show the score, what it rests on, and a category a row."""
    from rich import box
    from rich.table import Table

    from orchestrator.console import PlainConsole

    by_category = Table("category", "accuracy", "judged", "asked", box=box.SIMPLE_HEAD)
    for column in by_category.columns[1:]:
        column.justify = "right"
    for name, row in figures["categories"].items():
        by_category.add_row(visible(name), _percent(row["accuracy"]), str(row["n_judged"]), str(row["n_total"]))
    console = PlainConsole()
    console.print(by_category)
    for name, text in _summary_lines(figures):
        console.print(f"  {name:<18} {visible(text)}")


def commonest(found: Mapping[str, Any] | None) -> str:
    """The commonest failure as a few words, `found` being `commonest_failure` of the figures: "4 × 4xx: no such …"."""
    if not found:
        return ""
    detail = found["detail"]
    shown = detail if len(detail) <= LONGEST_DETAIL else detail[:LONGEST_DETAIL] + "…"
    return f"{found['count']} × {found['reason']}" + (f": {shown}" if shown else "")


def _summary_lines(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of what is worth a line; a figure that was not measured says so."""
    yield "accuracy", _accuracy(figures)
    yield "of the judged", _percent(figures["accuracy_judged"])
    if figures["n_unjudged"] and figures["accuracy_bounds"]:
        least, most = map(_percent, figures["accuracy_bounds"])
        yield "with the unjudged", f"from {least} (all of them wrong) to {most} (all right)"
    if figures["samples_per_question"] > 1:
        k = figures["samples_per_question"]
        yield f"k = {k}", f"avg@{k} {_percent(figures['avg_at_k'])}, pass@{k} {_percent(figures['pass_at_k'])}"
    for name, value in figures.get("scores", {}).items():
        yield name, f"{value:.4g} on average"
    if "calibration_error" in figures:
        error = _percent(figures["calibration_error"])
        yield "calibration error", f"{error}, by the official formula {_official(figures)}"
    answers = _counts(figures, "n_total", "n_answered", "n_truncated", "n_failed", "n_missing")
    why = visible(commonest(figures.get("commonest_failure")))
    yield "answers", answers.replace(" failed", f" failed ({why})") if why else answers
    yield "verdicts", _counts(figures, "n_judged", "n_unjudged")
    odd = _counts(
        figures,
        "n_confidence_defaulted",
        "n_confidence_out_of_range",
        "n_unknown_category",
        "n_unknown_id",
        "n_duplicate_id",
        "n_foreign_line",
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


def _accuracy(figures: Mapping[str, Any]) -> str:
    if figures["accuracy"] is None:
        return "not measured"
    half_width = figures["accuracy_half_width"]
    around = "not measured" if half_width is None else f"{half_width:.2f}"
    return (
        f"{_percent(figures['accuracy'])} ± {around}, Wilson {' to '.join(map(_percent, figures['accuracy_wilson']))}"
    )


def _official(figures: Mapping[str, Any]) -> str:
    spread = figures["calibration_error_official_range"]
    shown = _percent(figures["calibration_error_official"])
    if not spread or spread[0] == spread[1]:
        return shown
    return f"{shown} ({' to '.join(map(_percent, spread))} by the order of equal confidences)"


def _counts(figures: Mapping[str, Any], *names: str, only_present: bool = False) -> str:
    shown = [name for name in names if figures.get(name) or not only_present]
    return ", ".join(f"{figures[name]} {name.removeprefix('n_').replace('_', ' ')}" for name in shown)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} %"
