"""The concurrency controller in simulated time, against what no schedule can beat; one JSON line a scenario and seed.

Engines: 16 of them, output lengths log-normal up to 32 times the median. One dies after a quarter of the time that all
the work needs at least, which is about a third of the way to the last question's start, and is back after a half. Its
questions are asked again elsewhere. Each engine reports its numbers every 10 s, as Ray exports them, which takes up to
another 10 s; before its first report it is idle. The controller reads the last reports every 10 s; deaths it sees
within 2 s. The window opens as the product's does, by 400 requests a second, which 16 engines pay for at the start; a
fixed one is open at once. Serve's router takes the shorter queue of two. `bench`: two engines, no death, the requests
of jobs.bench, all alike and their budget known; in `bench_long` they have 256 tokens and their answers 1,024.

The oracle: every 10 s, the tokens that were computed are priced at the least engine-seconds that they can cost
(`Work.least_seconds`: each step has a seat for everyone, or a full KV cache), and divided by the engine-seconds that
there were. Nothing can do those tokens in less: it never waits, never computes twice, and loses nothing with a dead
engine. `throughput` is that quotient. `any_order` prices the whole run at once, so that long answers of its end could
have shared steps with the short ones of its beginning; no schedule of any order beats it, and none that takes the
questions as they come is likely to reach it. Both count from the start until the last question is sent, since what
follows is the tail of the longest answers, which no window changes.

API: one client of a server that allows a number of requests a second, less of them in the second third. The bound is
what the server allows; `refused` is the share of 429 in all responses. Waits and pauses are
orchestrator.asking.retry's.
"""

import argparse
import heapq
import itertools
import json
import math
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.simulated_engines import Engine, EngineModel, Numbers, Sequence, Work  # noqa: E402
from orchestrator.asking.retry import Fault, Health, Tries  # noqa: E402
from orchestrator.concurrency.window import START, EngineWindow, Load, RateWindow  # noqa: E402
from orchestrator.serving.deploy import opening  # noqa: E402
from orchestrator.serving.spec import ServingSpec  # noqa: E402
from orchestrator.steering.follower import OPENING  # noqa: E402

REPORT = 10.0  # seconds between an engine's reports, and between the controller's looks at them
DELAY = 10.0  # seconds at most until a report stands on Ray's page
LOOK = 2.0  # seconds between polls of which engines live
REPLACE = 0.1  # seconds from an answer to the next request, over the client and the router
RETRY = 1.0  # seconds until a dead engine's requests are asked again
LONGEST = 32  # times the median length, where the token budget ends
WINDOW_FACTOR = 1.25  # of all seats: the most that is in flight, and what a fixed window has
IDLE = Numbers(0, 0, 0.0, 0, 0, 0, 0)


class Clockwork:
    """Calls what was planned, in the order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._plan: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = itertools.count()

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._plan, (time, next(self._number), call, args))

    def run(self, going: Callable[[], bool]) -> None:
        while self._plan and going():
            self.now, _, call, args = heapq.heappop(self._plan)
            call(*args)


def questions(median: int, number: int, seed: int) -> Iterator[Sequence]:
    """Prompts around 300 tokens, answers around `median` with a long tail: a mean of twice the median."""
    rng = random.Random(seed)
    for item in range(number):
        output = min(LONGEST * median, max(1, int(rng.lognormvariate(math.log(median), 1.2))))
        yield Sequence(item, max(1, int(rng.lognormvariate(math.log(300), 0.5))), output)


def alike(prompt: int, output: int, number: int, seed: int) -> Iterator[Sequence]:
    """The requests of `jobs.bench`, whatever the seed, of which those that begin together end together."""
    return (Sequence(item, prompt, output) for item in range(number))


class Exam(Clockwork):
    """An exam on simulated engines. `window` fixes the window; without it the controller decides.

    `lengths`: the median of the output tokens; or those of every prompt and answer, on engines that do not die.
    """

    def __init__(
        self,
        *,
        model: EngineModel,
        lengths: int | tuple[int, int],
        seconds: float,
        seed: int,
        engines: int = 16,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.model = model
        self.fixed = window
        most = int(WINDOW_FACTOR * model.max_num_seqs * engines)
        budget = None if isinstance(lengths, int) else lengths[1]
        self.controller = EngineWindow(engines=engines, seats=model.max_num_seqs, most=most, budget=budget)
        self.engines = [Engine(model) for _ in range(engines)]
        self.reports: list[Numbers | None] = [IDLE] * engines  # nobody has asked them so far
        self.before: list[Numbers | None] = [None] * engines  # at the controller's last look
        ask = partial(questions, lengths) if isinstance(lengths, int) else partial(alike, *lengths)
        sample = Work.of(ask(2000, seed=seed + 1)).least_seconds(model) / 2000
        self.n_items = int(engines * seconds / sample)
        self.todo = deque(ask(self.n_items, seed=seed))
        seats = ServingSpec(replicas=engines, max_num_seqs=model.max_num_seqs)
        self.opened = most if window else opening(seats, gpus=engines)
        self.in_flight = 0
        self.ends: Counter[int] = Counter()  # by item
        self.done = Work()  # by the sequences that ended
        self.seen = Work()  # all, at the last report
        self.least_seconds = self.engine_seconds = self.last_look = 0.0
        self.sent_after: float | None = None
        self.steps = self.preempted_steps = 0
        for index in range(engines):
            self.at(self.rng.uniform(0, REPORT), self.report, index)
        if not window:
            self.at(OPENING, self.open, self.opened, most)
        self.at(LOOK, self.look)
        self.at(REPORT, self.control)
        if budget is None:
            self.at(seconds / 4, self.die, self.engines[0])
            self.at(seconds / 2, self.come_back, 0)

    def result(self) -> dict[str, Any]:
        self.fill()
        self.run(lambda: len(self.ends) < self.n_items)
        return {
            "items": self.n_items,
            "lost": self.n_items - len(self.ends),
            "answered_twice": sum(count > 1 for count in self.ends.values()),
            "throughput": round(self.least_seconds / self.engine_seconds, 4),
            "any_order": round(self.seen.least_seconds(self.model) / self.engine_seconds, 4),
            "steps_with_preemption": round(self.preempted_steps / self.steps, 5),
            "last_sent_after_s": round(self.sent_after or 0),
            "finished_after_s": round(self.now),
        }

    @property
    def window(self) -> int:
        return min(self.opened, self.fixed or self.controller.size)

    @property
    def alive(self) -> list[Engine]:
        return [engine for engine in self.engines if engine.alive]

    def fill(self) -> None:
        while self.todo and self.in_flight < self.window:
            self.in_flight += 1
            self.route(self.todo.popleft())
        if not self.todo and self.sent_after is None:
            self.take_stock()
            self.sent_after = self.now
            self.steps = sum(engine.steps for engine in self.engines)
            self.preempted_steps = sum(engine.preempted_steps for engine in self.engines)

    def route(self, sequence: Sequence) -> None:
        engine = min(self.rng.sample(self.alive, 2), key=lambda engine: engine.ongoing)
        self.advance(engine)
        engine.put(sequence)
        self.plan(engine)

    def plan(self, engine: Engine) -> None:
        """Look at the engine when something happens there; a plan of before is void."""
        engine.plan += 1
        if engine.running:
            self.at(engine.next_event(), self.happen, engine, engine.plan)

    def happen(self, engine: Engine, plan: int) -> None:
        if plan == engine.plan:
            self.advance(engine)
            self.plan(engine)

    def advance(self, engine: Engine) -> None:
        for sequence in engine.advance(self.now):
            self.ends[sequence.item] += 1
            self.done.add(sequence)
            self.at(self.now + REPLACE, self.free_slot)

    def free_slot(self) -> None:
        self.in_flight -= 1
        self.fill()

    def ask_again(self, sequences: list[Sequence]) -> None:
        self.in_flight -= len(sequences)
        for sequence in sequences:
            sequence.done = 0
            self.todo.appendleft(sequence)
        self.fill()

    def report(self, index: int) -> None:
        engine = self.engines[index]
        if engine.alive:
            self.advance(engine)
            self.plan(engine)
            self.at(self.now + self.rng.uniform(0, DELAY), self.publish, index, engine.numbers())
        self.at(self.now + REPORT, self.report, index)

    def publish(self, index: int, numbers: Numbers) -> None:
        if self.engines[index].alive:
            self.reports[index] = numbers

    def open(self, step: int, most: int) -> None:
        """As `orchestrator.steering.follower` does it."""
        self.opened += step
        self.fill()
        if self.opened < most:
            self.at(self.now + OPENING, self.open, step, most)

    def look(self) -> None:
        self.controller.resize(len(self.alive))
        self.fill()
        self.at(self.now + LOOK, self.look)

    def control(self) -> None:
        self.controller.observe(self.now, list(self.loads()))
        self.take_stock()
        self.fill()
        self.at(self.now + REPORT, self.control)

    def loads(self) -> Iterator[Load]:
        for index, (engine, numbers) in enumerate(zip(self.engines, self.reports, strict=True)):
            if engine.alive and numbers:
                yield Load.since(self.before[index], numbers)
                self.before[index] = numbers

    def die(self, engine: Engine) -> None:
        self.advance(engine)
        self.take_stock()
        self.at(self.now + RETRY, self.ask_again, engine.die())

    def come_back(self, index: int) -> None:
        self.take_stock()
        self.engines[index].come_back(self.now)
        self.reports[index] = self.before[index] = None

    def take_stock(self) -> None:
        """Price what was computed since the last time. Tokens that died with an engine are taken off again."""
        if self.sent_after is not None:
            return
        work = self.done + Work.of(itertools.chain.from_iterable(self.started(engine) for engine in self.alive))
        self.least_seconds += (work - self.seen).least_seconds(self.model)
        self.engine_seconds += len(self.alive) * (self.now - self.last_look)
        self.seen, self.last_look = work, self.now

    def started(self, engine: Engine) -> Iterable[Sequence]:
        self.advance(engine)
        self.plan(engine)
        return (sequence for sequence in engine.sequences() if sequence.done)


class Api(Clockwork):
    """A client at a server that allows `limit` requests a second, in the second third `later`."""

    def __init__(self, *, limit: float, later: float, retry_after: bool, seconds: float, seed: int, most: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.limit, self.later, self.retry_after, self.seconds = limit, later, retry_after, seconds
        self.window = RateWindow(start=START, least=1, most=most)
        self.health = Health(patience=120, clock=lambda: self.now)
        self.todo = deque(Tries() for _ in range(int(2 * limit * seconds)))
        self.tokens, self.refilled = limit, 0.0  # a second's worth may come at once
        self.in_flight = self.answered = self.refused = self.given_up = 0
        self.allowed = 0.0
        self.wakes = 0.0

    def result(self) -> dict[str, Any]:
        self.fill()
        self.run(lambda: self.now < self.seconds)
        return {
            "throughput": round(self.answered / self.allowed, 4),
            "refused": round(self.refused / (self.answered + self.refused), 4),
            "given_up": self.given_up,
        }

    def fill(self) -> None:
        pause = self.health.pause()
        if pause and self.now >= self.wakes:
            self.wakes = self.now + 1.05 * pause  # the middle of PAUSE_SPREAD
            self.at(self.wakes, self.fill)
        while not pause and self.todo and self.in_flight < self.window.size:
            self.in_flight += 1
            self.send(self.todo.popleft())

    def send(self, tries: Tries) -> None:
        if self.take_token():
            self.at(self.now + self.rng.lognormvariate(math.log(4), 0.5), self.answer)
        else:
            self.at(self.now + 0.05, self.refuse, tries)

    def take_token(self) -> bool:
        rate = self.later if self.seconds / 3 <= self.now < 2 * self.seconds / 3 else self.limit
        new = rate * (self.now - self.refilled)
        self.allowed += new
        self.tokens, self.refilled = min(rate, self.tokens + new), self.now
        taken = self.tokens >= 1
        self.tokens -= taken
        return taken

    def answer(self) -> None:
        self.window.answered(self.now, self.in_flight)
        self.in_flight -= 1
        self.answered += 1
        self.fill()

    def refuse(self, tries: Tries) -> None:
        self.in_flight -= 1
        self.window.refused(self.now, self.in_flight)
        self.refused += 1
        fault = Fault("429", "", retry_after=1.0 if self.retry_after else None)
        self.health.fault(fault)
        tries.add(fault, free=False)
        self.given_up += tries.exhausted("429")
        self.at(self.now + tries.wait("429", self.rng.random), self.return_item, tries)
        self.fill()

    def return_item(self, tries: Tries) -> None:
        self.todo.appendleft(tries)
        self.fill()


SMALLER = EngineModel(  # the same model on 80 GB, 3 TB/s, 400 TFLOP/s: reading the weights is a greater part of a step
    kv_tokens=380_000, weights=5.3e-3, a_kv_token=4.9e-8, a_prefill_token=4e-5
)
FEW_SEATS = EngineModel(max_num_seqs=96)
MANY_SEATS = EngineModel(max_num_seqs=512)  # as jobs.bench has it
SHORT, LONG = (520, 256), (256, 1024)
SCENARIOS: dict[str, Callable[[int], dict[str, Any]]] = {
    "kv_binds": lambda seed: Exam(model=EngineModel(), lengths=1000, seconds=900, seed=seed).result(),
    "kv_binds_80gb": lambda seed: Exam(model=SMALLER, lengths=600, seconds=900, seed=seed).result(),
    "kv_binds_3_engines": lambda seed: Exam(
        model=EngineModel(), lengths=1000, seconds=900, seed=seed, engines=3
    ).result(),
    "kv_binds_fixed": lambda seed: Exam(
        model=EngineModel(), lengths=1000, seconds=900, seed=seed, window=5120
    ).result(),
    "seats_bind": lambda seed: Exam(model=FEW_SEATS, lengths=1000, seconds=900, seed=seed).result(),
    "seats_bind_fixed": lambda seed: Exam(model=FEW_SEATS, lengths=1000, seconds=900, seed=seed, window=1920).result(),
    "bench": lambda seed: Exam(model=MANY_SEATS, lengths=SHORT, seconds=50, seed=seed, engines=2).result(),
    "bench_fixed": lambda seed: Exam(
        model=MANY_SEATS, lengths=SHORT, seconds=50, seed=seed, engines=2, window=1280
    ).result(),
    "bench_long": lambda seed: Exam(model=MANY_SEATS, lengths=LONG, seconds=75, seed=seed, engines=2).result(),
    "bench_long_fixed": lambda seed: Exam(
        model=MANY_SEATS, lengths=LONG, seconds=75, seed=seed, engines=2, window=1280
    ).result(),
    "api": lambda seed: Api(limit=20, later=8, retry_after=False, seconds=1800, seed=seed, most=512).result(),
    "api_retry_after": lambda seed: Api(
        limit=20, later=8, retry_after=True, seconds=1800, seed=seed, most=512
    ).result(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="by default all")
    parser.add_argument("--seeds", type=int, default=3, help="as many runs of each")
    args = parser.parse_args()
    for name in args.scenarios or SCENARIOS:
        for seed in range(args.seeds):
            print(json.dumps({"scenario": name, "seed": seed} | SCENARIOS[name](seed)), flush=True)


if __name__ == "__main__":
    main()
