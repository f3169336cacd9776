"""`make submit` and `make logs` say once why a job ended, whichever of job, log and dashboard goes away first.

A scripted client stands for Ray's, because the order in which they go cannot be chosen.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError
from ray.job_submission import JobDetails, JobStatus, JobType

from orchestrator import submit
from orchestrator.errors import ClusterNotReady, KosenError
from orchestrator.ray_cluster.printed_log import BEGIN

LOG = "6 answers wanted\nerror: cluster 'local' was taken down under this job\n"
FIRST = LOG[:17]
KEPT = f"Job entrypoint command failed with exit code 4, {BEGIN}"


class Client:
    """Sends `chunks` of the log, then raises `cut`; says of the job what `ended` is."""

    def __init__(self, chunks: list[str], cut: Exception | None, ended: JobDetails | Exception) -> None:
        self.chunks, self.cut, self.ended, self.asked = chunks, cut, ended, 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for chunk in self.chunks:
            yield chunk
        if self.cut:
            raise self.cut

    def get_job_info(self, job_id: str) -> JobDetails:
        self.asked += 1
        if self.asked == 1:
            return details(JobStatus.RUNNING)
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended


def details(status: JobStatus, code: int | None = None, message: str = "") -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, entrypoint="", status=status, driver_exit_code=code, message=message)


def failed(code: int | None, kept: str | None = None) -> JobDetails:
    return details(JobStatus.FAILED, code, "No logs available." if kept is None else KEPT + kept)


@pytest.mark.parametrize(
    ("chunks", "cut", "ended", "out"),
    [
        ([LOG], None, failed(4, LOG), LOG),
        ([FIRST], None, failed(4, LOG), LOG),
        ([FIRST, LOG[17:30]], None, failed(4, LOG), LOG),
        (["1\n", FIRST], None, failed(4, LOG), "1\n" + LOG),
        (["1\n" * 20_000], None, failed(4, "1\n" * 9 + LOG[17:]), "1\n" * 20_000 + LOG[17:]),
        ([], None, failed(4, LOG), LOG),
        ([FIRST], None, failed(4), FIRST),
        ([], None, failed(4), ""),
        ([FIRST], None, failed(-9, FIRST), FIRST),
        ([FIRST], None, failed(1, FIRST + "Traceback"), FIRST + "Traceback"),
        ([FIRST], None, failed(None), FIRST),
        ([LOG], None, failed(None), LOG),
        *[
            (chunks, cut, ended, "".join(chunks))
            for chunks in ([LOG], [FIRST], [])
            for cut, ended in (
                (RuntimeError("closed"), failed(4)),
                (ConnectionRefusedError(), failed(4)),
                (ServerDisconnectedError(), failed(4)),
                (None, ConnectionRefusedError()),
                (None, RuntimeError("status code 500")),
            )
        ],
    ],
)
def test_why_a_job_ended_is_said_once(
    chunks: list[str], cut: Exception | None, ended: Any, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = submit._logs(Client(chunks, cut, ended), "raysubmit_1")
        said = capsys.readouterr()
        raised = ""
    except KosenError as error:
        code, raised, said = error.exit_code, f"error: {error}", capsys.readouterr()
    assert said.out == out
    assert (said.out + said.err + raised).count("error: ") == 1
    assert code == (ended.driver_exit_code if isinstance(ended, JobDetails) and ended.driver_exit_code else 4)


@pytest.mark.parametrize(("code", "status"), [(0, JobStatus.SUCCEEDED), (3, JobStatus.FAILED), (130, JobStatus.FAILED)])
def test_an_end_that_is_no_error_is_not_called_one(
    code: int, status: JobStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client([FIRST], None, details(status, code, KEPT + FIRST))
    assert submit._logs(client, "raysubmit_1") == code
    assert capsys.readouterr() == (FIRST, "")


def test_a_job_that_said_an_error_and_went_on_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(["error: in a stage that was repeated\n" + "1\n" * 10], ConnectionRefusedError(), failed(4))
    with pytest.raises(ClusterNotReady):
        submit._logs(client, "raysubmit_1")
