"""When to ask again, when to give up on an item, and when to give up on the endpoint.

Two questions are kept apart. *Is it the item?* `Tries` counts the faults of one item and gives up on it after a bounded
number. *Is it the endpoint?* `Health` watches the results of all requests of a client:

- Faults that only a missing endpoint gives (the connection is refused, 502, 503, 520 to 530, a 404 after it had
  answered) build a streak; any answer ends it. From the third one on the endpoint is `out`: items do not pay for such
  faults, so an engine that reloads for minutes costs time and no answers. A streak of `patience` seconds opens the
  breaker.
- Faults that can come from the item itself (500, 504, a connection dropped under the request, a deadline) are always
  paid by the item. If many items in a row are given up without one answer in between, the breaker opens as well.

Long answers are not an outage: time counts only while such faults keep arriving, never while requests are in work.
All of it is pure; clock and chance come from outside, so tests need no waiting.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from orchestrator.endpoints.refusals import Refusal
from orchestrator.records.types import Reason

# Faults of one reason that an item survives. Waits are 1, 2, 4, … s up to the cap:
# 6 connection faults or 5xx are 31 s on average, longer than a proxy takes to drop a dead replica; a request that
# missed its deadline has cost hours already, so three; 40 times 429 are 34 min, 30 windows of a limit per minute.
TRIES: dict[Reason, int] = {"connection": 6, "5xx": 6, "deadline": 3, "429": 40}
CAP: dict[Reason, float] = {"connection": 30, "5xx": 30, "deadline": 30, "429": 60}  # seconds
JITTER = 0.25  # share of a wait, to either side: requests that failed together must not come back together
RETRY_AFTER_CAP = 120.0  # seconds; a server that wants more is asked again earlier, and says so again
PAUSE_SPREAD = 0.1  # share of a pause that the server asked for, on top of it: not all requests come back at once
CONNECT_TIMEOUT = 30.0  # seconds; only a host that drops packets needs longer than one

# A kept connection that the server has just closed shows within a round trip; later, the request itself was dropped.
STALE_WITHIN = 1.0  # seconds

PASSING = (408, 409, 423, 424, 425, 498, 499)  # 4xx that may succeed the next time
OF_ENDPOINT = (502, 503, *range(520, 531))

OUT_AFTER = 3  # faults of the endpoint in a row; one or two can be a single lost replica
# A streak is over when it pauses for 90 s, not counting pauses that the server asked for: while the endpoint is out,
# even a single item is back within its longest wait, the spread of the longest pause, and the time to connect. The 10 s
# are for the refusal itself.
QUIET = 10 + (1 + JITTER) * CAP["connection"] + PAUSE_SPREAD * RETRY_AFTER_CAP + CONNECT_TIMEOUT
GIVEN_UP_LIMIT = 50  # items in a row; more than the unlucky ones that gather at the end of a run
PATIENCE = 120.0  # seconds, for endpoints that others run
SERVE_PATIENCE = 900.0  # seconds, for our own: a large engine that died reloads its weights within this


@dataclass(frozen=True, slots=True)
class Fault:
    """A request without an answer that is worth asking again."""

    reason: Reason
    detail: str
    of_endpoint: bool = False  # whatever was asked, it would have failed
    retry_after: float | None = None  # seconds that the server asked all clients to wait
    stale: bool = False  # perhaps only a kept connection that the server had closed meanwhile


class Tries:
    """What one item has suffered so far."""

    __slots__ = ("_faults", "_paid")

    def __init__(self) -> None:
        self._faults: Counter[Reason] = Counter()
        self._paid: Counter[Reason] = Counter()

    def add(self, fault: Fault, *, free: bool) -> None:
        """Remember a fault; a `free` one makes the waits longer but is not held against the item."""
        self._faults[fault.reason] += 1
        self._paid[fault.reason] += not free

    def exhausted(self, reason: Reason) -> bool:
        return self._paid[reason] >= TRIES[reason]

    def wait(self, reason: Reason, chance: Callable[[], float] = random.random) -> float:
        """Seconds until the next try."""
        doublings = min(self._faults[reason] - 1, 10)
        return min(CAP[reason], 2.0**doublings) * (1 + JITTER * (2 * chance() - 1))


@dataclass(slots=True)
class Health:
    """The endpoint as one client sees it. `patience` in seconds; see the module's docstring for the policy."""

    patience: float
    clock: Callable[[], float] = time.monotonic
    answered: bool = False  # at least once
    verdict: str | None = None  # why the breaker is open; it never closes again
    _streak: int = 0
    _streak_start: float = 0.0
    _last_fault: float = field(default=float("-inf"))
    _given_up: int = 0
    _paused_until: float = 0.0

    @property
    def out(self) -> bool:
        return self._streak >= OUT_AFTER

    def success(self) -> None:
        """Any answer, a refusal of this one item included."""
        self.answered = True
        self._streak = self._given_up = 0

    def fault(self, fault: Fault) -> None:
        if fault.of_endpoint:
            self._extend_streak(fault)
        if fault.retry_after:
            self._paused_until = max(self._paused_until, self.clock() + fault.retry_after)

    def give_up(self, fault: Fault) -> None:
        """An item has used all its tries."""
        self._given_up += fault.reason != "deadline"  # a deadline that is too short says nothing of the endpoint
        if self._given_up >= GIVEN_UP_LIMIT:
            self.open(f"the last {self._given_up} items in a row got no answer (last: {fault.detail})")

    def open(self, verdict: str) -> None:
        self.verdict = self.verdict or verdict

    def pause(self) -> float:
        """Seconds that the server asked all clients to wait, 0 if it did not."""
        return max(0.0, self._paused_until - self.clock())

    def _extend_streak(self, fault: Fault) -> None:
        now = self.clock()
        if self._streak == 0 or now - max(self._last_fault, self._paused_until) > QUIET:
            self._streak, self._streak_start = 0, now
        self._streak += 1
        self._last_fault = now
        silent = now - self._streak_start
        if self.out and silent >= self.patience:
            self.open(f"no answer for {silent:.0f} s (last: {fault.detail})")


def fault_of_error(error: Exception, seconds: float) -> Fault:
    """Classify what aiohttp raised, `seconds` after the request was sent."""
    detail = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return Fault("connection", detail, of_endpoint=True)
    if isinstance(error, TimeoutError):
        return Fault("deadline", "no answer within request_timeout")
    dropped = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return Fault("connection", detail, stale=dropped and seconds < STALE_WITHIN)


def fault_of_status(status: int, detail: str, retry_after: str | None) -> Fault | None:
    """Classify an HTTP status; None for those that asking again would not change.

    Cloudflare's 520 to 530 and the 529 of an overloaded API speak of the endpoint, as 502 and 503 do. The few 4xx that
    pass (a request that came too slowly, too early, to something locked or just changing) count as 5xx; a 498, with
    which Groq says that it has no capacity left, as a 429.
    """
    if status < 500 and status not in (429, *PASSING):
        return None
    wait = parse_retry_after(retry_after) if retry_after else None
    reason: Reason = "429" if status in (429, 498) else "5xx"
    return Fault(reason, detail, of_endpoint=status in OF_ENDPOINT, retry_after=wait)


def fault_of_refusal(refusal: Refusal, answered: bool) -> Fault | None:
    """Classify what a server refused, `answered` telling whether it has answered before; None for what stays so.

    An error within a 200 is never the endpoint's: whoever wrote it is there.
    """
    fault = fault_of_status(refusal.status, refusal.detail, refusal.retry_after)
    if refusal.within:
        return fault and replace(fault, of_endpoint=False)
    if refusal.status == 404 and answered:  # the deployment was taken away, or is being replaced
        return Fault("connection", refusal.detail, of_endpoint=True)
    if refusal.status == 403 and answered and refusal.page:  # a proxy before the API expects a browser
        return Fault("5xx", refusal.detail)
    return fault


def parse_retry_after(value: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds to wait from a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_CAP) if seconds == seconds else None
