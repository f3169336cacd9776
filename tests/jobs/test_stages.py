"""Stages side by side: a failure of one is said at once, and raised at the end."""

import threading

import pytest

from jobs.exam.stages import StageThread, tell_failures
from orchestrator.errors import EndpointDown, JudgeUnavailable


def test_a_stage_that_fails_is_said_once_while_another_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise JudgeUnavailable("judge=j answers nothing")

    over = threading.Event()
    predict, judge = StageThread("predict", over.wait), StageThread("judge", fail)
    for thread in (predict, judge):
        thread.start()
    judge.join(5)
    for _ in range(3):
        tell_failures([predict, judge])
    over.set()
    predict.join(5)
    tell_failures([predict, judge])
    assert capsys.readouterr().err.count("judge has stopped, predict keeps running: judge=j answers nothing") == 1
    assert isinstance(judge.error, JudgeUnavailable) and predict.error is None


def test_a_stage_that_is_given_up_is_over_though_it_runs() -> None:
    over = threading.Event()
    stage = StageThread("judge", over.wait)
    stage.start()
    assert not stage.is_over()
    stage.give_up(JudgeUnavailable("silent"))
    stage.give_up(EndpointDown("later"))
    assert stage.is_over() and stage.is_alive()
    assert isinstance(stage.error, JudgeUnavailable)
    over.set()
