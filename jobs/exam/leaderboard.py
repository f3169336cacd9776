"""Writes what other tools read: HLE's official prediction and judgement files, and the teams' leaderboard folder.

Texts pass through one answer at a time; nothing here holds a whole run.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeGuard

from jobs.tasks.hle import CATEGORIES, Item
from orchestrator.errors import storage_error
from orchestrator.records.types import Judgement, Prediction

# One answer and the verdict on it, None where there is none yet.
Answer = tuple[Prediction, Judgement | None]
AddEntry = Callable[[str, Any], None]

UNSTATED_CONFIDENCE = 100  # what the official judge prompt asks for where a response states none


def write_leaderboard(
    run: Path, model: str, items: Mapping[str, Item], answers: Iterable[Answer], figures: Mapping[str, Any]
) -> Path:
    """Write `run`/leaderboard/<YYYY_MM_DD_HH_MM_SS>/ with results.jsonl and summary.json, and return that folder.

    results.jsonl has a line for each answer with a verdict; `figures` is what `jobs.tasks.metrics.score` gives. In both
    files the teams' fields come first and mean what the teams' code writes: in summary.json percent of the judged
    answers, `num_questions` of them, categories not rounded and null where nothing was judged. All others have our own
    names, `accuracy` (of all that were asked) among them. An older folder is never written to, and there is none until
    it is complete. Raises StorageFailed.
    """
    now = datetime.now()  # local time without a zone, as the layout has it
    with _storage(run), _partial_folder(run / "leaderboard") as folder:
        verdicts: dict[str, list[bool]] = {name: [] for name in CATEGORIES}
        with _replacing(folder / "results.jsonl") as file:
            for prediction, judgement in answers:
                if prediction["id"] in items and _has_verdict(judgement):
                    item = items[prediction["id"]]
                    file.write(_dumps(_result(item, prediction, judgement)) + "\n")
                    verdicts.setdefault(item.category, []).append(judgement["verdict"] == "yes")
        write_json(folder / "summary.json", _summary(model, figures, verdicts, now))
        return _placed(folder, now.strftime("%Y_%m_%d_%H_%M_%S"))


def export_predictions(run: Path, model: str, answers: Iterable[Answer], samples: int = 1) -> list[Path]:
    """Write the official `predictions/hle_<model>.json`, one file a sample (the second is `hle_<model>_s1.json`).

    Answers without a text are left out, as the official code leaves them out. Raises StorageFailed.
    """
    paths = [run / "predictions" / f"hle_{_stem(model, sample)}.json" for sample in range(samples)]
    with _storage(run), ExitStack() as stack:
        files = [stack.enter_context(_json_object(path)) for path in paths]
        for prediction, _ in answers:
            if prediction["response"] and prediction["sample"] < samples:
                files[prediction["sample"]](prediction["id"], _official(prediction))
    return paths


def export_judgements(
    run: Path, model: str, items: Mapping[str, Item], answers: Iterable[Answer], samples: int = 1
) -> list[Path]:
    """Write the official `judged/judged_hle_<model>.json`, one file a sample, with the answers that have a verdict.

    A confidence that was not stated becomes 100, as the official judge is told. Raises StorageFailed.
    """
    paths = [run / "judged" / f"judged_hle_{_stem(model, sample)}.json" for sample in range(samples)]
    with _storage(run), ExitStack() as stack:
        files = [stack.enter_context(_json_object(path)) for path in paths]
        for prediction, judgement in answers:
            item = items.get(prediction["id"])
            if item and _has_verdict(judgement) and prediction["sample"] < samples:
                entry = _official(prediction) | {"judge_response": _judge_response(item, judgement)}
                files[prediction["sample"]](item.id, entry)
    return paths


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    with _replacing(path) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=4) + "\n")


def _stem(model: str, sample: int) -> str:
    return Path(model).name + (f"_s{sample}" if sample else "")


def _has_verdict(judgement: Judgement | None) -> TypeGuard[Judgement]:
    return judgement is not None and judgement["verdict"] in ("yes", "no")


def _result(item: Item, prediction: Prediction, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": item.id,
        "category": item.category,
        "question": item.question,
        "user_prompt": "",  # the layout has the field and leaves it empty
        "answer_type": item.answer_type,
        "prediction": _extracted(judgement),
        "gold": item.answer,
        "correct": int(judgement["verdict"] == "yes"),
        "judgement": judgement["reasoning"] or "",
        "sample": prediction["sample"],
        "status": prediction["status"],
        "confidence": judgement["confidence"],
        "judge": judgement["judge"]["model"],
    }


def _summary(
    model: str, figures: Mapping[str, Any], verdicts: Mapping[str, list[bool]], now: datetime
) -> dict[str, Any]:
    # In the order of the teams' code, so that the last digit is theirs.
    shares = {name: sum(verdicts[name]) / len(verdicts[name]) * 100 if verdicts[name] else None for name in CATEGORIES}
    seed = {
        "model_name": model,
        "overall_accuracy": figures["accuracy_judged"],
        "accuracy_per_category": shares,
        "num_questions": figures["n_judged"],
        "timestamp": now.isoformat(),
    }
    return seed | dict(figures)


def _official(prediction: Prediction) -> dict[str, Any]:
    return {"model": prediction["model"], "response": prediction["response"], "usage": prediction["usage"]}


def _judge_response(item: Item, judgement: Judgement) -> dict[str, Any]:
    confidence = judgement["confidence"]
    return {
        "correct_answer": item.answer,
        "model_answer": _extracted(judgement),
        "reasoning": judgement["reasoning"] or "",
        "correct": judgement["verdict"],
        "confidence": UNSTATED_CONFIDENCE if confidence is None else confidence,
    }


def _extracted(judgement: Judgement) -> str:
    return "None" if judgement["extracted_answer"] is None else judgement["extracted_answer"]


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


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


@contextmanager
def _json_object(path: Path) -> Iterator[AddEntry]:
    """Writes one JSON object, an entry a line, without ever holding more than one entry."""
    with _replacing(path) as file:
        separator = "{\n"

        def add(key: str, value: Any) -> None:
            nonlocal separator
            file.write(f"{separator}{_dumps(key)}: {_dumps(value)}")
            separator = ",\n"

        yield add
        file.write("\n}\n" if separator == ",\n" else "{}\n")


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Half of a surrogate pair, which models do emit, is not UTF-8; its backslash form is right in JSON.
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _storage(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, run) from None
