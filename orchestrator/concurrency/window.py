"""How many requests a run keeps in flight, as a state machine: observations and their time come in, a window comes out.

The window grows while nothing says that it is too large: by doubling at first (slow start, as TCP: RFC 5681), by a few
per cent after the first sign of saturation, and only while it binds (RFC 7661). What shrinks it:

Our own engines (`EngineWindow`) report their numbers.
- An engine that has a queue needs no more requests. Its queue is long enough for many answers that end together, since
  hundreds of requests take seconds to reach an engine; a longer one would only be lost with it, so the window goes
  straight to what runs and that queue. Where seats are free the queue only waits for its prompts to be computed.
- The KV cache fills slowly and late: a long answer holds ten times what it held when it was admitted. So the use that
  is coming counts, not the present one; above the target, the window follows in proportion. An engine that is getting
  its work fills fast, which says nothing of what comes (seen on H200s: half of the window was taken away for it).
- A preemption has thrown computed tokens away. The window is cut in proportion to the share of the engines that had
  some, as DCTCP cuts by the share of marked packets (RFC 8257), and not again before the cut can have worked.
- Engines die and return; each takes its share along at once.

Remote APIs (`RateWindow`) report nothing but 429. Each answer lets the window grow. A refusal says that what is in
flight is as much as the server takes, and cuts that by a tenth, as above not again at once.

Nothing here waits, asks or knows a clock: `now` is in seconds of any monotonic clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# What a refusal leaves of the window. TCP halves, CUBIC leaves 0.7 and inspect_ai 0.8, but they don't know what was
# taken; we start from that. In benchmarks/controller.py 0.8 reaches 0.86 of a server's limit, 0.9 reaches 0.91 to 0.93.
CUT = 0.9
COOL_DOWN = 15.0  # seconds after a cut without another: refusals of what was under way say nothing new; as inspect_ai
START = 20  # requests at a server of unknown size; as inspect_ai
A_ROUND = 0.05  # growth in a window's worth of answers, after slow start; as inspect_ai
A_POLL = 1.1  # growth between two polls of the engines, which are 10 s apart
# Of the window in flight: less, and a larger one would change nothing. RFC 7661 says 0.5. Short answers spend much of
# their time outside the engines that report them; and 0.5 is what a report of before the last doubling shows.
BINDING = 0.6
# Requests that wait at an engine, of its seats, and at least. Answers of equal length end together, and a replica takes
# in 200 to 300 requests a second: with a queue of 8 an H200 waited 1 to 3 s for each 512 of them.
QUEUE = 0.25
LEAST_QUEUE = 8  # requests; a router that takes the shorter of two queues leaves a few more or less
# Of all KV caches. Engines differ by a tenth at the same number of requests, because the lengths do: at 0.9 the fullest
# one is just full. In the benchmark 0.95 costs 0.1 % of throughput and more than doubles preemptions.
KV_TARGET = 0.9
# Of a cache, if all that runs were to use up its budget: nothing overflows then, so less is kept free. The rest is for
# what is not known exactly: what a cache holds is learned, and prompts differ. A preemption says that it was wrong.
ALL_FIT = 0.95
# Seconds of look-ahead for KV-cache use: a report is up to 20 s old, the next poll is 10 s away, a smaller window takes
# 20 to act. In the benchmark 40 leaves a preemption in up to 0.94 % of the steps, 50 in up to 0.72 %, for the same
# throughput.
KV_AHEAD = 50.0
FILLED = 0.8  # share of what runs now: an engine that ran less before was still filling
KV_LESSON = 0.05  # a rise of KV use that shows how many tokens a cache holds; a smaller one is mostly rounding


class EngineReport(Protocol):
    """An engine's numbers; preemptions, tokens and finished requests since its start."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_usage(self) -> float: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def prompts(self) -> int: ...  # tokens
    @property
    def tokens(self) -> int: ...  # of answers
    @property
    def finished(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Load:
    """One engine, as it last reported."""

    running: int  # requests
    waiting: int
    kv_usage: float  # 0 to 1
    preemptions: int  # since the poll before
    kv_before: float | None = None  # KV use at the poll before; None if much less ran then
    new_tokens: int = 0  # of prompts and answers, since the poll before
    prompt: float = 0.0  # tokens, mean

    @classmethod
    def since(cls, before: EngineReport | None, now: EngineReport) -> "Load":
        """What an engine reports now, against the poll before; one that was restarted counts from 0."""
        preemptions = now.preemptions - before.preemptions if before else 0
        tokens = now.prompts + now.tokens - before.prompts - before.tokens if before else 0
        kv_before = before.kv_usage if before and before.running > FILLED * now.running else None
        prompt = now.prompts / max(1, now.finished + now.running)
        return cls(now.running, now.waiting, now.kv_usage, max(0, preemptions), kv_before, max(0, tokens), prompt)


class Window:
    """A number of requests between `least` and `most`: it grows by factors, and is cut at most once in COOL_DOWN."""

    def __init__(self, *, start: float, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.slow_start = True
        self._last_cut = float("-inf")
        self._exact = 0.0
        self._set(start)

    @property
    def size(self) -> int:
        return int(self._exact)

    def _set(self, size: float) -> None:
        self._exact = min(max(size, self.least), self.most)

    def _shrink(self, size: float) -> None:
        """There is no room for more than `size`."""
        self.slow_start = False
        self._set(min(self._exact, size))

    def _cut(self, now: float, factor: float, taken: float) -> None:
        """Shrinks the window after a refusal or a preemption to a part of what was really in flight."""
        self.slow_start = False
        if not self._cooling(now):
            self._last_cut = now
            self._shrink(factor * taken)

    def _cooling(self, now: float) -> bool:
        return now - self._last_cut < COOL_DOWN


class RateWindow(Window):
    """For one client of a server that reports nothing but 429: call `answered` or `refused` for each response."""

    def answered(self, now: float, in_flight: int) -> None:
        """An answer came; `in_flight` requests, its own included, were under way."""
        if self._cooling(now) or in_flight < BINDING * self.size:
            return
        self._set(self._exact + (1 if self.slow_start else max(A_ROUND, 1 / self._exact)))

    def refused(self, now: float, in_flight: int) -> None:
        """A 429 came; `in_flight` requests, without it, were under way: so many the server had taken.

        One refusal halves the window at most, as TCP's do: there may have been little to ask just then.
        """
        taken = max(in_flight, self._exact / 2)
        self._cut(now, CUT, taken)
        self._shrink(taken)


class EngineWindow(Window):
    """For a deployment of `engines` replicas, of which each decodes `seats` sequences at once; `most` for all of them.

    Starts with all seats taken and the queues: KV caches fill slowly enough for the first reports to come in time. In
    benchmarks/controller.py half of that costs 0.3 % of throughput and saves no preemption. `budget`: tokens that an
    answer may have at most, if that is known.
    """

    def __init__(self, *, engines: int, seats: int, most: int, budget: int | None = None) -> None:
        self.engines, self._seats, self._budget = engines, seats, budget
        self._queue = max(LEAST_QUEUE, int(QUEUE * seats))
        self._cache = float("inf")  # tokens that an engine's KV cache holds, or more
        self._looked_at = float("-inf")
        self._overflowed = False
        super().__init__(start=engines * (seats + self._queue), least=engines, most=most)

    def resize(self, engines: int) -> None:
        """So many engines live now. With none, the window stays for the one that comes back."""
        if not engines or engines == self.engines:
            return
        self.least, factor = engines, engines / self.engines
        self.engines = engines
        self._set(self._exact * factor)

    def observe(self, now: float, loads: Sequence[Load]) -> None:
        """The engines' last reports. One that lives and has not reported yet is taken for an average one."""
        if not loads:
            return
        share = self.engines / len(loads)
        running, waiting = share * sum(load.running for load in loads), share * sum(load.waiting for load in loads)
        in_flight, queue = int(running + waiting), self._queue * self.engines
        self._learn(loads)
        preempted = sum(load.preemptions > 0 for load in loads) / len(loads)
        if preempted:
            self._overflowed = True
            self._cut(now, 1 - (1 - CUT) * preempted, running)
        room = self._room(now, loads, running)
        if room < 1:
            self._shrink(running * room)
        elif waiting > 2 * queue:
            self._shrink(max(running, self.engines * self._seats) + queue)
        elif not preempted and waiting < queue / 2 and in_flight >= BINDING * self._exact:
            self._set(self._exact * min(2 if self.slow_start else A_POLL, room))

    def _room(self, now: float, loads: Sequence[Load], running: float) -> float:
        """How many times of what runs the KV caches have room for."""
        most_use = self._most_use(loads, running)
        kv_use = self._coming_use(now, loads, most_use)
        room = KV_TARGET / max(kv_use, 1e-3)
        if max(kv_use, most_use) > ALL_FIT or self._overflowed:
            return room
        return max(room, ALL_FIT / max(most_use, 1e-3))

    def _coming_use(self, now: float, loads: Sequence[Load], most_use: float) -> float:
        """KV use in KV_AHEAD seconds if it keeps rising as it did since the last poll; a fall is not trusted."""
        since, self._looked_at = now - self._looked_at, now
        kv_use = sum(load.kv_usage for load in loads) / len(loads)
        rises = [load.kv_usage - load.kv_before for load in loads if load.kv_before is not None]
        if not rises or since <= 0:
            return kv_use
        coming = kv_use + KV_AHEAD * max(0.0, sum(rises) / len(rises)) / since
        return min(coming, max(kv_use, most_use))

    def _most_use(self, loads: Sequence[Load], running: float) -> float:
        """KV use if each request had its prompt and all of its budget in the cache at once; infinite if not known."""
        if self._budget is None or self._cache == float("inf"):
            return float("inf")
        prompt = sum(load.prompt for load in loads) / len(loads)
        return running * (prompt + self._budget) / (self._cache * self.engines)

    def _learn(self, loads: Sequence[Load]) -> None:
        """What a cache holds, from tokens that came and the rise they made. Tokens of requests that ended meanwhile
        make it seem larger, so the least that was seen counts."""
        for load in loads:
            rise = 0.0 if load.kv_before is None else load.kv_usage - load.kv_before
            if load.new_tokens and rise > KV_LESSON:
                self._cache = min(self._cache, load.new_tokens / rise)
