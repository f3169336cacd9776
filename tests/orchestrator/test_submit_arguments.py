"""What a submission is refused for before any cluster is asked for."""

import pytest

from orchestrator import submit
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.jobs_api import check_job


@pytest.mark.parametrize(
    "job", ["../jobs/evaluate", "cli", "exam", "run", "", ".", "evaluate.py", "jobs.evaluate", "Evaluate", "__init__"]
)
def test_what_is_no_command_of_jobs_is_no_job(job: str) -> None:
    with pytest.raises(SpecError, match=r"there is no job .* Known are bench, .*evaluate"):
        check_job(job)


def test_commands_of_jobs_are_jobs() -> None:
    for job in ("evaluate", "predict", "judge", "score", "sft", "ppo", "pipeline"):
        check_job(job)


@pytest.mark.parametrize(
    "argument",
    [
        *("base_url=http://user:sesame@h/v1", "base_url=user:sesame@h/v1", "judge_base_url=https://sesame@h/v1"),
        *("base_url=http://h/v1?key=sesame", "judge.base_url=h#sesame"),
        *("http://user:sesame@h", "--x=https://user:sesame@h", "dataset=${oc.env:sesame}"),
    ],
)
def test_what_the_list_of_jobs_must_not_show_is_not_sent(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "job_client", lambda **_: pytest.fail("a cluster was asked for"))
    with pytest.raises(SpecError) as told:
        submit.main(["submit", "evaluate", argument])
    assert "sesame" not in str(told.value)
