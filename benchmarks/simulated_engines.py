"""Engines that decode in simulated time, behind a router: what the concurrency controller is tried on.

One engine is vLLM's scheduler in small. A decode step costs what a roofline says: reading the weights, a little for
each sequence, and reading the KV cache; prefilling costs computation. A sequence's KV grows by a token a step. When
the cache is full, the sequence that was admitted last goes back to the head of the queue and is computed again from its
prompt, generated tokens included. Waiting requests are admitted first come first served, while there is a seat and room
for their prompt (vLLM's `watermark` is 0 by default). Steps between two events are summed in closed form.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self


@dataclass(frozen=True)
class EngineModel:
    """A model of 8 billion parameters in bf16 on one H200: 141 GB, 4 TB/s and 600 TFLOP/s as reached, not as sold."""

    max_num_seqs: int = 256
    kv_tokens: int = 720_000  # 106 GB at 147 KB a token: 36 layers, 8 heads of 128 for keys and for values
    weights: float = 4e-3  # seconds a step: 16 GB
    a_sequence: float = 2e-5  # seconds: sampling and bookkeeping
    a_kv_token: float = 3.7e-8  # seconds to read 147 KB
    a_prefill_token: float = 2.7e-5  # seconds: 16 GFLOP


@dataclass(slots=True)
class Sequence:
    """A question on an engine; lengths in tokens."""

    item: int
    prompt: int
    output: int
    done: int = 0  # output tokens, kept when it is preempted
    ends_at: int = 0  # the engine's step after which it is finished

    @property
    def context(self) -> int:
        return self.prompt + self.done


@dataclass
class Work:
    """What was computed and was of use, so that a bound on its time can be given."""

    outputs: int = 0  # tokens
    prompts: int = 0
    kv_steps: int = 0  # tokens of KV held, summed over the steps

    @classmethod
    def of(cls, sequences: Iterable[Sequence]) -> Self:
        """The work of `sequences` as far as they are done; of those that have not begun, as if they were."""
        work = cls()
        for sequence in sequences:
            work.add(sequence)
        return work

    def add(self, sequence: Sequence) -> None:
        n = sequence.done or sequence.output
        self.outputs += n
        self.prompts += sequence.prompt
        self.kv_steps += n * sequence.prompt + n * (n + 1) // 2

    def __add__(self, other: "Work") -> "Work":
        return Work(self.outputs + other.outputs, self.prompts + other.prompts, self.kv_steps + other.kv_steps)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.outputs - other.outputs, self.prompts - other.prompts, self.kv_steps - other.kv_steps)

    def least_seconds(self, model: EngineModel) -> float:
        """Engine-seconds that no schedule of this work can undercut.

        Tokens, prompts and reads of KV cost the same in any order. Reading the weights is shared by the sequences of a
        step, of which there are at most `max_num_seqs` and whose KV is at most `kv_tokens`: so there are at least as
        many steps as the greater of the two quotients says.
        """
        steps = max(self.outputs / model.max_num_seqs, self.kv_steps / model.kv_tokens)
        tokens = model.a_sequence * self.outputs + model.a_prefill_token * self.prompts
        return model.weights * steps + tokens + model.a_kv_token * self.kv_steps


class Numbers(NamedTuple):
    """What an engine reports."""

    running: int
    waiting: int
    kv_usage: float
    preemptions: int
    prompts: int  # tokens
    tokens: int  # of answers
    finished: int


@dataclass(eq=False)
class Engine:
    """One replica. `clock` is where its steps have come to, in seconds."""

    model: EngineModel
    clock: float = 0.0
    alive: bool = True
    plan: int = 0  # the caller's: which of its plans for this engine holds
    steps: int = 0
    kv: int = 0
    preemptions: int = 0
    preempted_steps: int = 0
    prompts: int = 0  # tokens of those that were admitted
    tokens: int = 0  # of answers
    finished: int = 0
    waiting: deque[Sequence] = field(default_factory=deque)
    running: dict[int, Sequence] = field(default_factory=dict)  # by item, in the order of admission
    _ends: list[tuple[int, int]] = field(default_factory=list)  # heap of (step, item)

    @property
    def ongoing(self) -> int:
        return len(self.running) + len(self.waiting)

    def put(self, sequence: Sequence) -> None:
        """A request arrives; it joins the step that is under way."""
        self.waiting.append(sequence)
        self._admit()

    def numbers(self) -> Numbers:
        kv_usage = self.kv / self.model.kv_tokens
        totals = self.preemptions, self.prompts, self.tokens, self.finished
        return Numbers(len(self.running), len(self.waiting), kv_usage, *totals)

    def sequences(self) -> list[Sequence]:
        """All that it has, `done` brought up to date."""
        for sequence in self.running.values():
            self._update(sequence)
        return [*self.running.values(), *self.waiting]

    def next_event(self) -> float:
        """When a sequence ends or the cache is full; infinite for an idle engine."""
        return self.clock + self._seconds(self._steps_to_event()) if self.running else math.inf

    def advance(self, now: float) -> list[Sequence]:
        """Compute until `now`; returns the sequences that ended."""
        ended: list[Sequence] = []
        while self.running:
            steps = self._steps_to_event()
            if self.clock + self._seconds(steps) > now + 1e-9:
                self._step(self._steps_within(now - self.clock))
                return ended
            self._step(steps)
            ended += self._end_finished()
            if not self._make_room():
                self._admit()
        self.clock = max(self.clock, now)
        return ended

    def die(self) -> list[Sequence]:
        """Returns the sequences that it had."""
        lost = self.sequences()
        self.waiting.clear()
        self.running.clear()
        self._ends.clear()
        self.alive, self.kv = False, 0
        return lost

    def come_back(self, now: float) -> None:
        self.alive, self.clock = True, now

    def _update(self, sequence: Sequence) -> None:
        sequence.done = sequence.output - (sequence.ends_at - self.steps)

    def _steps_to_event(self) -> int:
        room = (self.model.kv_tokens - self.kv) // len(self.running)
        return max(1, min(self._ends[0][0] - self.steps, room))

    def _seconds(self, steps: int) -> float:
        batch, model = len(self.running), self.model
        read = steps * self.kv + batch * steps * (steps + 1) / 2
        return steps * (model.weights + model.a_sequence * batch) + model.a_kv_token * read

    def _steps_within(self, seconds: float) -> int:
        if seconds <= 0:
            return 0
        batch, model = len(self.running), self.model
        a = model.a_kv_token * batch / 2
        b = model.weights + model.a_sequence * batch + model.a_kv_token * self.kv + a
        return int((math.sqrt(b * b + 4 * a * seconds) - b) / (2 * a))

    def _step(self, steps: int) -> None:
        self.clock += self._seconds(steps)
        self.steps += steps
        self.kv += steps * len(self.running)
        self.tokens += steps * len(self.running)

    def _end_finished(self) -> list[Sequence]:
        ended = []
        while self._ends and self._ends[0][0] <= self.steps:
            sequence = self.running.pop(heapq.heappop(self._ends)[1])
            sequence.done = sequence.output
            self.kv -= sequence.context
            ended.append(sequence)
            self.finished += 1
            self._forget_preempted()
        return ended

    def _make_room(self) -> bool:
        """Preempt until the next step fits; True if it was necessary, then nothing is admitted in this step."""
        before = self.preemptions
        while self.kv + len(self.running) > self.model.kv_tokens:
            _, sequence = self.running.popitem()
            self._update(sequence)
            self.kv -= sequence.context
            self.waiting.appendleft(sequence)
            self.preemptions += 1
        self._forget_preempted()
        self.preempted_steps += self.preemptions > before
        return self.preemptions > before

    def _forget_preempted(self) -> None:
        """The first entry of `_ends` is of a sequence that runs and will end then."""
        while self._ends and not self._ends_at(*self._ends[0]):
            heapq.heappop(self._ends)

    def _ends_at(self, step: int, item: int) -> bool:
        sequence = self.running.get(item)
        return sequence is not None and sequence.ends_at == step

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.model.max_num_seqs:
            sequence = self.waiting[0]
            if self.kv + sequence.context + len(self.running) + 1 > self.model.kv_tokens:
                return
            self.waiting.popleft()
            self.clock += self.model.a_prefill_token * sequence.context
            sequence.ends_at = self.steps + sequence.output - sequence.done
            self.kv += sequence.context
            self.prompts += 0 if sequence.done else sequence.prompt
            self.running[sequence.item] = sequence
            heapq.heappush(self._ends, (sequence.ends_at, sequence.item))
