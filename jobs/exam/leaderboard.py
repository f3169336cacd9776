"""Writes the competition teams' leaderboard folder, a line for each answer.

Texts pass through one answer at a time; nothing here holds a whole run.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.tasks.json_files import dumps, replacing, storage, write_json
from jobs.tasks.official_layout import extracted
from jobs.tasks.task import Item, Results
from orchestrator.records.types import Judgement, Prediction


def write_leaderboard(
    run: Path, results: Results, figures: Mapping[str, Any], known_categories: Sequence[str] = ()
) -> Path:
    """Write `run`/leaderboard/<YYYY_MM_DD_HH_MM_SS>/ with results.jsonl and summary.json, and return that folder.

    results.jsonl has a line for each answer with a verdict; `figures` is what the task makes of them. In both
    files the teams' fields come first and mean what the teams' code writes: in summary.json percent of the judged
    answers, `num_questions` of them, the known categories (where a task knows none, those of the data) not rounded and
    null where nothing was judged. All others have our own names, `accuracy` (of all that were asked) among them. An
    older folder is never written to, and there is none until it is complete. Raises StorageFailed.
    """
    now = datetime.now()  # local time without a zone, as the layout has it
    with storage(run), _partial_folder(run / "leaderboard") as folder:
        verdicts: dict[str, list[bool]] = {name: [] for name in known_categories}
        with replacing(folder / "results.jsonl") as file:
            for prediction, judgement in results.answers():
                if judgement and judgement["verdict"] != "unjudged" and prediction["id"] in results.items:
                    item = results.items[prediction["id"]]
                    file.write(dumps(_result(item, prediction, judgement)) + "\n")
                    if judgement["verdict"] != "scored":
                        verdicts.setdefault(item.category, []).append(judgement["verdict"] == "yes")
        shown = {name: verdicts[name] for name in known_categories or verdicts}
        write_json(folder / "summary.json", _summary(results.model, figures, shown, now))
        return _placed(folder, now.strftime("%Y_%m_%d_%H_%M_%S"))


def _result(item: Item, prediction: Prediction, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": item.id,
        "category": item.category,
        "question": item.question,
        "user_prompt": "",  # the layout has the field and leaves it empty
        "answer_type": item.answer_type,
        "prediction": extracted(judgement),
        "gold": item.answer,
        "correct": None if judgement["verdict"] == "scored" else int(judgement["verdict"] == "yes"),
        "judgement": judgement["reasoning"] or "",
        "sample": prediction["sample"],
        "status": prediction["status"],
        "confidence": judgement["confidence"],
        "judge": judgement["judge"]["model"],
        **({"scores": judgement["scores"]} if judgement.get("scores") else {}),
    }


def _summary(
    model: str, figures: Mapping[str, Any], verdicts: Mapping[str, list[bool]], now: datetime
) -> dict[str, Any]:
    # In the order of the teams' code, so that the last digit is theirs.
    shares = {name: sum(right) / len(right) * 100 if right else None for name, right in verdicts.items()}
    seed = {
        "model_name": model,
        "overall_accuracy": figures["accuracy_judged"],
        "accuracy_per_category": shares,
        "num_questions": figures["n_judged"],
        "timestamp": now.isoformat(),
    }
    return seed | dict(figures)


@contextmanager
def _partial_folder(parent: Path) -> Iterator[Path]:
    """A folder to fill and to place; where that does not come to pass, neither it nor `parent` is left behind empty."""
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{os.getpid()}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process of this number that was killed
        partial.mkdir()
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()


def _placed(partial: Path, name: str) -> Path:
    """Give the folder its `name`, or `name`_1, _2, … where the same second has one already."""
    suffix = 0
    while True:
        folder = partial.with_name(f"{name}_{suffix}" if suffix else name)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            suffix += 1
        else:
            return folder
