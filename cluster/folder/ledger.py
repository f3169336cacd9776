"""The ledger of a cluster: which jobs its successor must take up, on disk and outside Ray.

The scheduler starts a successor after any end that is not a success, also after a cancellation and after an exam that
finished with unanswered items. The ledger decides whether there is something to resume.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.files import json_lines

UNFINISHED = {"PENDING", "RUNNING"}
End = Literal["finished", "down", "failed", "walltime", "lost"]


@dataclass(frozen=True, slots=True)
class RayJob:
    """A Ray Job as it can be submitted again."""

    submission_id: str
    entrypoint: str
    status: str
    working_dir: str | None = None  # on the shared file system, where the submitter named it
    runtime_env: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Append-only lines in `ledger.jsonl`, written by one batch job at a time, private to its user."""

    def __init__(self, path: Path, job_id: str) -> None:
        self._path, self._job_id = path, job_id
        self._seen: dict[str, str] = {}

    def start(self) -> int:
        """Note that this batch job begins; how many began before it."""
        earlier = sum(line["event"] == "start" for line in self._lines())
        self._write("start")
        return earlier

    def submitted(self, successor: str) -> None:
        """Note that `successor` waits in the queue for the end of this batch job."""
        self._write("successor", successor=successor)

    def successor(self, of: str | None = None) -> str | None:
        """The batch job that waits for the end of batch job `of`; without `of` the newest one that waits for any."""
        lines = [line for line in self._lines() if line["event"] == "successor" and of in (None, line["batch_job"])]
        return str(lines[-1]["successor"]) if lines else None

    def note(self, job: RayJob) -> None:
        """Write a job down when it or its status is new."""
        if self._seen.get(job.submission_id) != job.status:
            self._seen[job.submission_id] = job.status
            fields = {name: getattr(job, name) for name in RayJob.__slots__}
            self._write("job", **fields)

    def end(self, why: End) -> None:
        """Note why this batch job ends, with the jobs that it interrupted where a successor may take them up."""
        self._write("end", why=why, interrupted=[job.submission_id for job in self.unfinished()])

    def unfinished(self) -> list[RayJob]:
        """The jobs that were pending or running when last seen, or that the walltime interrupted."""
        jobs: dict[str, RayJob] = {}
        interrupted: dict[str, str] = {}  # to the batch job that did it
        for line in self._lines():
            if line["event"] == "job":
                job = RayJob(**{name: line[name] for name in RayJob.__slots__})
                jobs[job.submission_id] = job
                if _settles(job, line["batch_job"], interrupted.get(job.submission_id)):
                    interrupted.pop(job.submission_id, None)
            elif line["event"] in ("interrupt", "end"):
                interrupted |= dict.fromkeys(line["interrupted"], line["batch_job"])
        return [job for job in jobs.values() if job.status in UNFINISHED or job.submission_id in interrupted]

    def interrupt(self) -> list[RayJob]:
        """Note that what runs now is stopped for the walltime; those jobs."""
        jobs = self.unfinished()
        self._write("interrupt", interrupted=[job.submission_id for job in jobs])
        return jobs

    def goes_on(self, predecessor: str, *, lost: bool) -> bool:
        """Whether a successor of batch job `predecessor` has reason to run: the walltime or a lost node ended that.

        `lost` says of a predecessor that could not write why it ended that its scheduler has forgotten it, or ended it
        without a fault of its own. A ledger that does not know the predecessor is that of another cluster, started
        since under the same name.
        """
        ends = [line for line in self._lines() if line["event"] in ("start", "end")]
        own = [line for line in ends if line["batch_job"] == predecessor]
        if not own:
            return False
        if own[-1]["event"] == "end":
            return own[-1]["why"] in ("walltime", "lost")
        return lost

    def _write(self, event: str, **values: object) -> None:
        self._path.touch(mode=0o600)
        line = json.dumps({"event": event, "batch_job": self._job_id, **values}) + "\n"
        torn = self._path.read_bytes()[-1:] not in (b"", b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + line)

    def _lines(self) -> list[dict[str, Any]]:
        return [line for line in json_lines(self._path) if _is_ours(line)]


def _is_ours(line: dict[str, Any]) -> bool:
    fields = _FIELDS.get(str(line.get("event")))
    return (
        isinstance(line.get("batch_job"), str)
        and fields is not None
        and all(isinstance(line.get(name), kind) for name, kind in fields.items())
    )


_FIELDS: dict[str, dict[str, Any]] = {
    "start": {},
    "successor": {"successor": str},
    "job": {
        "submission_id": str,
        "entrypoint": str,
        "status": str,
        "working_dir": str | None,
        "runtime_env": dict,
    },
    "interrupt": {"interrupted": list},
    "end": {"interrupted": list, "why": str},
}


def _settles(job: RayJob, seen_by: str, interrupted_by: str | None) -> bool:
    """Whether a job is no longer one that the walltime interrupted: it ended by itself, or was taken up again."""
    return job.status in ("SUCCEEDED", "FAILED") or (job.status in UNFINISHED and seen_by != interrupted_by)


def parse_jobs(answer: Any) -> list[RayJob]:
    """The submitted jobs in an answer of Ray's job API; drivers that a person started by hand are not among them, nor
    jobs whose metadata names a `parent`: another job submitted them, which stops them and would submit them again."""
    jobs = [job for job in answer or [] if job.get("type") == "SUBMISSION" and job.get("submission_id")]
    return [_parse_job(job) for job in jobs if not (job.get("metadata") or {}).get("parent")]


def _parse_job(job: dict[str, Any]) -> RayJob:
    metadata = job.get("metadata") or {}
    return RayJob(
        submission_id=job["submission_id"],
        entrypoint=metadata.get("entrypoint") or job["entrypoint"],  # as it was before it was first taken up
        status=job["status"],
        working_dir=metadata.get("working_dir"),
        runtime_env=_lasting(job.get("runtime_env") or {}),
    )


def _lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """A runtime environment without what lies in the head's memory: the packages that Ray made of folders (gcs://)."""
    kept = {key: value for key, value in environment.items() if key not in ("working_dir", "excludes")}
    modules = [module for module in kept.pop("py_modules", None) or [] if not str(module).startswith("gcs://")]
    return {**kept, **({"py_modules": modules} if modules else {})}
