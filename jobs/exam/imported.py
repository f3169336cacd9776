"""Answers from elsewhere, in HLE's official `predictions/<task>_<model>.json`, as records in a run folder of their own.

From there on they are judged, resumed, scored and exported as all others are.
"""

import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cluster.files import expanded
from jobs.exam.command import Command, parse
from jobs.exam.official_files import OfficialFile, read_official
from jobs.exam.provenance import data_identity
from jobs.exam.requests import Requests
from jobs.exam.spec import ExamSpec
from jobs.tasks.registry import task_names
from jobs.tasks.task import Item
from orchestrator.console import say
from orchestrator.errors import Parser, SpecError
from orchestrator.ray_cluster.find import inside_job, local_path, run_root
from orchestrator.records.lock import Owner, RunLock
from orchestrator.records.log import RecordLog, RecordReader
from orchestrator.records.types import AnswerKey, Prediction, Provenance, answer_key
from orchestrator.serving.identity import Model, Served

PURPOSE = (
    "Judge the recorded answers of an exam; or, with --predictions FILE --dataset FILE [--out DIR], those of a file in "
    "HLE's official layout, all rows of the data set being asked."
)
FLAGS = ("--predictions", "--dataset", "--out")
ORIGIN = "file:"  # begins the `endpoint` of what was imported
NOBODY = "http://imported.invalid/v1"  # where the spec's model answers: nowhere (RFC 2606), and no vLLM is deployed


def is_wanted(argv: Sequence[str]) -> bool:
    """Whether a command line is about a file of predictions and not about a run of ours."""
    return any(word.split("=")[0] in FLAGS for word in argv)


def parse_import(argv: Sequence[str]) -> tuple[Command, OfficialFile]:
    """Read the command line, the file and the data. Raises SpecError.

    The model's name comes from the file. The folder is `--out` or `out=`, else judged_<the file's name> among the runs.
    Questions with images count among those asked, since a judge sees no image; multimodal=false leaves them out.
    """
    parser = Parser(prog="python -m jobs.judge", add_help=False, allow_abbrev=False)
    for flag in FLAGS:
        parser.add_argument(flag)
    known, rest = parser.parse_known_args(argv)
    if not (known.predictions and known.dataset):
        raise SpecError("give --predictions FILE and --dataset FILE; python -m jobs.judge --help shows all arguments")
    file = read_official(local_path(known.predictions), "predictions")
    outs = [word.removeprefix("out=") for word in rest if word.startswith("out=")]
    out = known.out or (outs[-1] if outs else None)
    folder = _here() / expanded(out) if out else run_root() / f"judged_{file.path.stem}"
    given = [word for word in rest if not word.startswith("out=")]
    model = [] if any(word.startswith("model=") for word in given) else [f"model={_model(file)}"]
    settled = [f"dataset={known.dataset}", *model, f"run={folder}", "multimodal=true", "samples=1"]
    settled += ["provider=compatible", f"base_url={NOBODY}"]
    return parse("judge", PURPOSE, [*settled, *given]), file


def describe_import(command: Command, file: OfficialFile) -> str:
    """What `--dry-run` prints. Raises SpecError where no id fits."""
    there = sum(item.id in file.entries for item in command.items)
    if not there:
        raise _no_answers(command, file)
    return "\n".join(
        [
            f"answers:  {there} of {len(file.entries)} in {file.path}, to {len(command.items)} questions asked",
            f"model:    {command.spec.model}",
            f"judge:    {command.spec.judge}"
            + (f" at {command.spec.judge_base_url}" if command.spec.judge_base_url else ""),
            f"folder:   {command.spec.run}",
        ]
    )


def unknown_source(spec: ExamSpec) -> Served:
    """Who gave the answers, as far as the file says."""
    model: Model = {"name": spec.model, "revision": None, "digest": None}
    return {"model": model, "engine": None, "server": {"base_url": spec.base_url, "version": None}}


def import_predictions(command: Command, file: OfficialFile) -> None:
    """Record the file's answers where they are not recorded yet; one that changed takes the place of the older.

    Raises SpecError where no id fits, and where the folder holds other answers, RunLocked where another job writes it.
    """
    folder = Path(command.spec.run_name)
    records = list(_records(command, file))
    if not records:
        raise _no_answers(command, file)
    lock = RunLock(folder, Owner(socket.gethostname(), os.getpid()))
    try:
        reader = RecordReader[Prediction, AnswerKey](folder / "predictions.jsonl", answer_key)
        there = {record["id"]: record for record in reader}
        _check_origin(folder, file, there.values())
        new = [record for record in records if _content(record) != _content(there.get(record["id"]))]
        with closing(RecordLog[Prediction, AnswerKey](folder / "predictions.jsonl", answer_key, lambda _: ())) as log:
            log.append(new)
    finally:
        lock.release()
    unknown = len(file.entries) - len(records)
    notes = [f"{len(records)} answers of {file.path}, {len(new)} of them new"]
    notes += [f"{unknown} ids that are not asked are skipped"] if unknown else []
    notes += [f"{file.n_duplicates} ids came twice, the last counts"] if file.n_duplicates else []
    say("; ".join(notes) + ". Who gave them and how is not known")


def _no_answers(command: Command, file: OfficialFile) -> SpecError:
    return SpecError(
        f"none of the {len(file.entries)} ids in {file.path} is in {command.spec.dataset}; "
        "expected the set that was asked"
    )


def _here() -> Path:
    """Where relative paths begin: Ray deletes a job's own working directory afterwards."""
    return run_root().parent if inside_job() else Path.cwd()


def _model(file: OfficialFile) -> str:
    names = Counter(str(entry["model"]) for entry in file.entries.values() if entry.get("model"))
    if len(names) > 1:
        raise SpecError(f"{file.path} holds answers of several models ({', '.join(names)}). Give model=<name>")
    stem = file.path.stem
    task = next((f"{name}_" for name in task_names() if stem.startswith(f"{name}_")), "")
    return next(iter(names), stem.removeprefix(task))


def _records(command: Command, file: OfficialFile) -> Iterator[Prediction]:
    """The file's answers as if they had been given to exactly what the spec asks, which is not known of them."""
    requests = Requests(command.spec, unknown_source(command.spec))
    data = data_identity(command.spec, command.items)
    items: dict[str, Item] = {item.id: item for item in command.items}
    for prediction, _ in file.answers():
        if item := items.get(prediction["id"]):
            wanted = requests.wanted(item)[0]
            prediction["fingerprint"], prediction["spec"] = wanted.fingerprint, wanted.spec
            prediction["endpoint"] = ORIGIN + str(file.path.absolute())
            prediction["provenance"] = _provenance(data)
            prediction["model"] = _writable(prediction["model"])
            prediction["response"] = prediction["response"] and _writable(prediction["response"])
            yield prediction


def _provenance(data: Mapping[str, Any]) -> Provenance:
    """Nothing is known of versions, weights and sampling."""
    return Provenance(
        session="",
        kosen="",
        ray=None,
        vllm=None,
        transformers=None,
        gpu=None,
        model=None,
        data=data["digest"],
        rows=data["rows"],
        sampling=None,
    )


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can escape and no log can hold."""
    return text.encode(errors="replace").decode()


def _check_origin(folder: Path, file: OfficialFile, there: Iterable[Mapping[str, Any]]) -> None:
    for record in there:
        if not str(record.get("endpoint")).startswith(ORIGIN):
            raise SpecError(f"{folder} holds the answers of a run, not of a file. Give another out=")
        if record["id"] not in file.entries:
            raise SpecError(f"{folder} holds answers that {file.path} lacks, of another file. Give another out=")


def _content(record: Mapping[str, Any] | None) -> list[Any]:
    names = ("status", "response", "usage", "model", "fingerprint", "spec")
    return [record.get(name) for name in names] if record else []
