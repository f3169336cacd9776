"""Writes the official layout of Humanity's Last Exam, which any task with a reference answer can use: one JSON object
of answers, `predictions/<task>_<model>.json`, and one with verdicts, `judged/judged_<task>_<model>.json`.

Texts pass through one answer at a time; nothing here holds a whole run.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeGuard

from jobs.tasks.json_files import json_object, storage
from jobs.tasks.task import Item, Results
from orchestrator.records.types import Judgement, Prediction

UNSTATED_CONFIDENCE = 100  # what the official judge prompt asks for where a response states none


def export_predictions(task: str, folder: Path, results: Results) -> list[Path]:
    """Write `predictions/<task>_<model>.json`, one file a sample (the second is `<task>_<model>_s1.json`).

    Answers without a text are left out, as the official code leaves them out. Raises StorageFailed.
    """
    paths = [folder / "predictions" / f"{task}_{_stem(results, sample)}.json" for sample in range(results.samples)]
    with storage(folder), ExitStack() as stack:
        files = [stack.enter_context(json_object(path)) for path in paths]
        for prediction, _ in results.answers():
            if prediction["response"] and prediction["sample"] < results.samples:
                files[prediction["sample"]](prediction["id"], _official(prediction))
    return paths


def export_judgements(task: str, folder: Path, results: Results) -> list[Path]:
    """Write `judged/judged_<task>_<model>.json`, one file a sample, with the answers that have a verdict.

    A confidence that was not stated becomes 100, as the official judge assumes. Raises StorageFailed.
    """
    paths = [folder / "judged" / f"judged_{task}_{_stem(results, sample)}.json" for sample in range(results.samples)]
    with storage(folder), ExitStack() as stack:
        files = [stack.enter_context(json_object(path)) for path in paths]
        for prediction, judgement in results.answers():
            item = results.items.get(prediction["id"])
            if item and _is_judged(judgement) and prediction["sample"] < results.samples:
                entry = _official(prediction) | {"judge_response": _judge_response(item, judgement)}
                files[prediction["sample"]](item.id, entry)
    return paths


def extracted(judgement: Judgement) -> str:
    """The final answer that the judge took out of the response, "None" where there is none."""
    return "None" if judgement["extracted_answer"] is None else judgement["extracted_answer"]


def _stem(results: Results, sample: int) -> str:
    return Path(results.model).name + (f"_s{sample}" if sample else "")


def _is_judged(judgement: Judgement | None) -> TypeGuard[Judgement]:
    return judgement is not None and judgement["verdict"] in ("yes", "no")


def _official(prediction: Prediction) -> dict[str, Any]:
    return {"model": prediction["model"], "response": prediction["response"], "usage": prediction["usage"]}


def _judge_response(item: Item, judgement: Judgement) -> dict[str, Any]:
    confidence = judgement["confidence"]
    return {
        "correct_answer": item.answer,
        "model_answer": extracted(judgement),
        "reasoning": judgement["reasoning"] or "",
        "correct": judgement["verdict"],
        "confidence": UNSTATED_CONFIDENCE if confidence is None else confidence,
    }
