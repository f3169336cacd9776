"""The policy of trying again, with a clock that the test holds."""

from datetime import UTC, datetime

import aiohttp
import pytest

from orchestrator.asking.retry import (
    CONNECT_TIMEOUT,
    GIVEN_UP_LIMIT,
    PAUSE_SPREAD,
    QUIET,
    RETRY_AFTER_CAP,
    TRIES,
    Fault,
    Health,
    Tries,
    fault_of_error,
    fault_of_refusal,
    fault_of_status,
    parse_retry_after,
)
from orchestrator.endpoints.refusals import Refusal
from orchestrator.records.types import Reason

REFUSED = Fault("connection", "refused", of_endpoint=True)
DROPPED = Fault("connection", "dropped")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_streak_of_patience_opens_the_breaker(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(12):
        health.fault(REFUSED)
        assert health.verdict is None
        clock.now += 10
    health.fault(REFUSED)
    assert health.verdict == "no answer for 120 s (last: refused)"


def test_one_answer_ends_the_streak(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(3):
        health.fault(REFUSED)
        clock.now += 50
    assert health.out
    health.success()
    assert not health.out
    for _ in range(3):
        health.fault(REFUSED)
        clock.now += 50
    assert health.verdict is None


def test_hours_of_silence_are_long_answers_not_an_outage(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(10):
        health.fault(REFUSED)
        clock.now += QUIET + 1
    assert health.verdict is None
    assert not health.out


def test_a_pause_that_the_server_asked_for_is_no_silence(clock: Clock) -> None:
    """A permanent 503 with a long Retry-After: all come back up to a tenth later, or wait to connect."""
    health = Health(patience=120, clock=clock)
    unavailable = Fault("5xx", "503", of_endpoint=True, retry_after=parse_retry_after("300"))
    health.fault(unavailable)
    for _ in range(2):
        assert health.verdict is None
        clock.now += (1 + PAUSE_SPREAD) * RETRY_AFTER_CAP + CONNECT_TIMEOUT
        health.fault(unavailable)
    assert health.verdict == "no answer for 324 s (last: 503)"


def test_silence_after_a_pause_ends_the_streak(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(10):
        health.fault(Fault("5xx", "503", of_endpoint=True, retry_after=60))
        clock.now += 60 + QUIET + 1
    assert health.verdict is None


def test_faults_that_may_be_the_items_never_make_an_outage(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(1000):
        health.fault(DROPPED)
        health.fault(Fault("5xx", "500"))
        health.fault(Fault("deadline", "late"))
        clock.now += 1
    assert not health.out
    assert health.verdict is None


def test_many_items_given_up_in_a_row_open_the_breaker(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    for _ in range(GIVEN_UP_LIMIT - 1):
        health.give_up(DROPPED)
    health.success()
    for _ in range(GIVEN_UP_LIMIT - 1):
        health.give_up(DROPPED)
        health.give_up(Fault("deadline", "late"))
    assert health.verdict is None
    health.give_up(DROPPED)
    assert health.verdict is not None


def test_pause_is_the_longest_that_was_asked(clock: Clock) -> None:
    health = Health(patience=120, clock=clock)
    health.fault(Fault("429", "slow down", retry_after=10))
    health.fault(Fault("429", "slow down", retry_after=2))
    assert health.pause() == 10
    clock.now += 11
    assert health.pause() == 0


@pytest.mark.parametrize(("reason", "seconds"), [("connection", 31), ("5xx", 31), ("deadline", 3), ("429", 2043)])
def test_waits_until_an_item_is_given_up(reason: Reason, seconds: float) -> None:
    tries, waited = Tries(), 0.0
    for _ in range(TRIES[reason]):
        assert not tries.exhausted(reason)
        tries.add(Fault(reason, ""), free=False)
        waited += 0 if tries.exhausted(reason) else tries.wait(reason, chance=lambda: 0.5)
    assert tries.exhausted(reason)
    assert waited == pytest.approx(seconds, rel=0.02)


def test_jitter_stays_within_a_quarter() -> None:
    tries = Tries()
    tries.add(DROPPED, free=False)
    assert tries.wait("connection", chance=lambda: 0.0) == 0.75
    assert tries.wait("connection", chance=lambda: 1.0) == 1.25
    assert len({tries.wait("connection") for _ in range(50)}) > 40


def test_free_faults_lengthen_the_waits_only() -> None:
    tries = Tries()
    for _ in range(1000):
        tries.add(REFUSED, free=True)
    assert not tries.exhausted("connection")
    assert tries.wait("connection", chance=lambda: 0.5) == 30


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("99999", 120.0),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", RETRY_AFTER_CAP),
        ("-1", 0.0),
        ("Wed, 21 Oct 99999999999999999999 07:28:10 GMT", None),
    ],
)
def test_retry_after_in_both_forms(value: str, seconds: float | None) -> None:
    now = datetime(2026, 10, 21, 7, 28, 0, tzinfo=UTC)
    assert parse_retry_after(value, now=lambda: now) == seconds


def test_classes_of_status() -> None:
    assert fault_of_status(400, "no", None) is None
    assert fault_of_status(429, "slow", "3") == Fault("429", "slow", retry_after=3)
    assert fault_of_status(503, "none", None) == Fault("5xx", "none", of_endpoint=True)
    for status in (500, 501, 504, 408, 409, 423, 424, 425, 499):
        assert fault_of_status(status, "oh", None) == Fault("5xx", "oh")
    for status in (502, *range(520, 531)):
        assert fault_of_status(status, "gone", None) == Fault("5xx", "gone", of_endpoint=True)
    assert fault_of_status(498, "full", "3") == Fault("429", "full", retry_after=3)
    for status in (401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 421, 422, 426, 431, 451):
        assert fault_of_status(status, "no", None) is None


def test_refusals_that_pass() -> None:
    page, gone = Refusal(403, "Just a moment...", page=True), Refusal(404, "not here")
    assert fault_of_refusal(page, answered=True) == Fault("5xx", "403 Just a moment...")
    assert fault_of_refusal(gone, answered=True) == Fault("connection", "404 not here", of_endpoint=True)
    assert fault_of_refusal(page, answered=False) is fault_of_refusal(gone, answered=False) is None
    assert fault_of_refusal(Refusal(403, "flagged"), answered=True) is None
    assert fault_of_refusal(Refusal(404, "not here", within=True), answered=True) is None
    assert fault_of_refusal(Refusal(503, "busy", within=True), answered=True) == Fault("5xx", "503 busy")
    assert fault_of_refusal(Refusal(429, "slow", retry_after="3"), answered=True) == Fault("429", "429 slow", False, 3)


def test_classes_of_errors() -> None:
    assert fault_of_error(TimeoutError(), 9).reason == "deadline"
    assert fault_of_error(aiohttp.ConnectionTimeoutError("slow"), 9).of_endpoint
    early, late = (fault_of_error(aiohttp.ServerDisconnectedError(), seconds) for seconds in (0.1, 20))
    assert early.stale and not late.stale
    assert early.reason == late.reason == "connection"
    assert not early.of_endpoint
