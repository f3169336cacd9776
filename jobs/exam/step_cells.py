"""Sums up the metrics.json of a pipeline's step, an exam's or a training's, in a few words."""

from collections.abc import Mapping
from typing import Any

from jobs.exam.show import commonest


def describe(figures: Mapping[str, Any]) -> tuple[str, str]:
    """The score and what it rests on; empty where there are no such figures."""
    return _score(figures), _result(figures)


def _score(figures: Mapping[str, Any]) -> str:
    """An exam's accuracy with its half width (95 %), as the exam's own report gives it."""
    if figures.get("accuracy") is None:
        return ""
    half_width = figures["accuracy_half_width"]
    return f"{figures['accuracy']:.2f} %" + ("" if half_width is None else f" ± {half_width:.2f}")


def _result(figures: Mapping[str, Any]) -> str:
    """What the score rests on, or what a training did."""
    if "n_judged" in figures:
        why = commonest(figures.get("commonest_failure"))
        return f"{figures['n_judged']} of {figures['n_total']} judged" + (f", {why}" if why else "")
    if "step" in figures:
        named = (("loss", "loss"), ("validation loss", "val_loss"), ("reward", "score"), ("validation", "val_score"))
        measured = [f"{name} {figures[key]:.3f}" for name, key in named if figures.get(key) is not None]
        return ", ".join([f"{figures['step']} steps", *measured])
    return ""
