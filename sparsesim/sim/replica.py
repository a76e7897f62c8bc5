"""A replica in time: it leaps over runs of decode iterations, from one change of its batch to the next.

A leap of m iterations from t0 with first time a and growth b ends at
t0 + a*m + b*m*(m-1)/2. What happens within TIE_S after a boundary counts as at the boundary: a boundary's event is due
TIE_S after it, so arrivals that tie with it are delivered first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop
from typing import TYPE_CHECKING, Any, Literal, Protocol

from simpy import Environment
from simpy.events import NORMAL
from simpy.events import Event as SimPyEvent

from sparsesim.sim.batch import Batch
from sparsesim.sim.log import PACK_ROW, Event
from sparsesim.sim.request import Job, Outcome
from sparsesim.sim.steps import Curves, Line, StepModel

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet
    from sparsesim.sim.pool import Pool

TIE_S = 1e-9  # two times nearer than this are one (well below any step, well above float rounding in a day)


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica: its costs and its memory.

    Attributes:
        steps: the costs of its iterations.
        kv_blocks: KV blocks it has.
        max_context: tokens, the longest prompt plus output.
        block_tok: tokens per block.
        state_slots: sequences whose SSM state fits, None where there is no state.
        kv_windows: one entry per group of layers that takes blocks of its own from the pool: inf, or the window
            beyond which a sequence gives blocks back (it then holds ceil(window / block_tok) + 1). Empty: no KV.
        prefix_cache: keep the KV of prompts for those that begin alike: off, in the pool (evicted when room is
            needed), or unbounded (nothing is ever forgotten).
        host_blocks: host memory for evicted prefixes, in KV blocks.
        swap_s_per_block: seconds that a block takes to host memory or back; None: it cannot be swapped.

    """

    steps: StepModel
    kv_blocks: int
    max_context: int
    block_tok: int = 16
    state_slots: int | None = None
    kv_windows: tuple[float, ...] = (math.inf,)
    prefix_cache: Literal["off", "pool", "unbounded"] = "off"
    host_blocks: int = 0
    swap_s_per_block: float | None = None


class Queue(Protocol):
    """What is asked of the waiting requests: a deque, or a heap by rank."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Job]: ...
    def __contains__(self, job: object, /) -> bool: ...
    def __getitem__(self, place: int, /) -> Job: ...
    def append(self, job: Job, /) -> None:
        """Add one behind the others of its rank."""

    def appendleft(self, job: Job, /) -> None:
        """Add one before the others of its rank."""

    def popleft(self) -> Job:
        """Take the first."""

    def remove(self, job: Job, /) -> None:
        """Take one out."""

    def clear(self) -> None:
        """Take all out."""


class Boundary(SimPyEvent):
    """The event of a wake-up: a Timeout that is used again once it has been processed."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._value = None
        self._ok = True


class Replica(Batch, ABC):
    """The leap engine; a scheduler's subclass decides what comes next (`plan`) and what an arrival does (`submit`)."""

    # slots: beyond thirty attributes a Python object falls back to a plain dictionary, at half the speed
    __slots__ = (
        "admitted", "alive", "asked_tok", "chunks", "curves", "end", "energies", "env", "finished", "first_s",
        "first_token", "fleet", "incoming", "index", "iterations", "lines", "log", "mixed", "on_wake", "output_tok",
        "outstanding", "pending", "plain", "pool", "prefill_tok", "requests", "schedule", "slope_s", "spare", "spec",
        "time", "waiting", "write",
    )  # fmt: skip

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec) -> None:
        super().__init__(spec)
        self.fleet, self.index, self.spec = fleet, index, spec
        self.env, self.log, self.requests = fleet.env, fleet.steps, fleet.log
        self.write = fleet.steps.write
        self.finished = fleet.finished
        self.first_token = fleet.log.first_token
        self.admitted = fleet.log.admitted
        self.on_wake: list[Callable[[Any], None]] = [self.wake]
        self.schedule = fleet.env.schedule
        self.spare: SimPyEvent | None = None
        self.curves = Curves(spec.steps)
        self.mixed = spec.steps.mixed
        self.lines: dict[int, Line] = {}  # of the only channel, where there is one
        self.plain = spec.steps.windows == (math.inf,)
        self.waiting: Queue = deque()
        self.outstanding = self.asked_tok = 0  # requests that wait or run, and the tokens of their prompts
        self.incoming = 0  # of the outstanding ones those whose KV is still on its way here
        self.alive = True  # powered and holding its state, whether or not it takes requests
        self.pool: Pool
        self.reset(0.0)

    def reset(self, time_s: float) -> None:
        """An empty batch and an empty pool."""
        self.empty()
        self.time = self.end = time_s
        self.iterations = 0
        self.first_s = self.slope_s = 0.0
        self.chunks: Sequence[tuple[Job, int]] = ()
        self.prefill_tok = self.output_tok = 0
        self.pending: SimPyEvent | None = None

    # ---- what a scheduler adds

    @abstractmethod
    def submit(self, job: Job, now_s: float) -> None:
        """A request arrives."""

    @abstractmethod
    def plan(self) -> None:
        """At a boundary: begin the next leap or step (`leap`, `mixed_step`), or fall idle."""

    def refusal(self, job: Job) -> Outcome | None:
        """Why this replica could never serve a request, if so. The last token sampled needs no KV."""
        if job.prompt + job.output > self.spec.max_context:
            return Outcome.rejected_too_long
        if self.blocks(job.prompt + job.output - 1) > self.spec.kv_blocks or self.spec.state_slots == 0:
            return Outcome.rejected_too_large
        return None

    @property
    def held(self) -> int:
        """Requests that need this replica to be on."""
        return self.outstanding

    def cached_tok(self, job: Job) -> int:
        """Leading tokens of a request that need not be computed here; 0 without a prefix cache."""
        del job
        return 0

    # ---- time

    def wake_at(self, time_s: float) -> None:
        """Be called when everything that ties with `time_s` has happened; any earlier wake-up is void."""
        event = self.spare or Boundary(self.env)
        self.spare = None
        self.pending = event
        event.callbacks = self.on_wake
        delay = time_s + TIE_S - self.env._now
        self.schedule(event, NORMAL, delay if delay > 0.0 else 0.0)

    def wake(self, event: SimPyEvent) -> None:
        """The boundary that was waited for."""
        self.spare = event
        if event is not self.pending:
            return
        self.pending = None
        if self.iterations:
            self.advance()
        self.plan()
        if self.iterations:  # as `wake_at` does it, with the event at hand
            self.spare = None
            self.pending = event
            event.callbacks = self.on_wake
            delay = self.end + TIE_S - self.env._now
            self.schedule(event, NORMAL, delay if delay > 0.0 else 0.0)

    def leap(self, most: int | None = None) -> None:
        """Begin a run of decode iterations, as long as nothing changes and at most `most`."""
        finishing, step = self.finishing, self.step
        while finishing[0][2].finish_step != finishing[0][0]:
            heappop(finishing)
        m = finishing[0][0] - step
        if self.turns:
            m = min(m, int(self.turns[0][0]) - step)
        if most is not None and most < m:
            m = most
        if self.free < self.phased * (m // self.block_tok + 1):
            m = min(m, self.affordable(self.free))
        decoding = self.decoding
        if self.plain:
            line = self.lines.get(decoding) or self.line(decoding)
            coordinate = self.context / decoding
            i = bisect_right(line.inner, coordinate)
            self.slope_s = slope_s = line.slopes[i]
            self.first_s = first_s = line.times[i] + slope_s * (coordinate - line.knots[i])
            if m > line.inner[i] - coordinate:
                m = int(line.inner[i] - coordinate) + 1
            self.end = self.time + first_s * m + slope_s * (m * (m - 1) / 2)
        else:
            m = self._line(m)
            self.end = self.ends(m)
        self.iterations = m
        self.output_tok = decoding * m

    def line(self, sequences: int) -> Line:
        """The curve of a batch size, of a model with one channel; kept."""
        line = self.lines[sequences] = self.curves.lines(sequences)[0]
        return line

    def _line(self, most: int) -> int:
        """Set the leap's times from every channel; the iterations until the first of them meets a knot."""
        time_s = slope_s = 0.0
        for line, (start, growth) in zip(self.curves.lines(self.decoding), self._coordinates(), strict=False):
            at_s, slope, room = line.at(start)
            time_s += at_s
            slope_s += slope * growth
            if growth > 0.0 and room / growth < most:
                most = int(room / growth) + 1
        self.first_s, self.slope_s = time_s, slope_s
        return most

    def _coordinates(self) -> list[tuple[float, float]]:
        """(coordinate, growth per iteration) of every channel; one dummy where there is none."""
        n = self.decoding
        finite = iter(self.windows)
        found = []
        for size in self.spec.steps.windows:
            if math.isinf(size):
                found.append((self.context / n, 1.0))
            else:
                window = next(finite)
                found.append((window.attended / n, window.growing / n))
        return found or [(0.0, 0.0)]

    def _contexts(self) -> tuple[float, ...]:
        """The coordinate of every channel, 0 where nothing decodes."""
        channels = len(self.spec.steps.windows)
        return tuple(c for c, _ in self._coordinates())[:channels] if self.decoding else (0.0,) * channels

    def mixed_step(self, chunks: Sequence[tuple[Job, int]], extra_s: float = 0.0) -> None:
        """Begin one iteration with prompt chunks (request, tokens), whose blocks are already held."""
        n = self.decoding
        sampled = n
        tokens = 0
        shapes = []
        for job, q in chunks:
            kv = job.computed + q
            shapes.append((q, kv))
            tokens += q
            if kv == job.target:
                sampled += 1
        if self.plain:
            contexts: tuple[float, ...] = (self.context / n if n else 0.0,)
        else:
            contexts = self._contexts()
        values = self.mixed(n, contexts, shapes, sampled)
        self.chunks = chunks
        self.prefill_tok = tokens
        self.output_tok = sampled
        self.first_s = first_s = float(values[0]) + extra_s
        self.slope_s = 0.0
        self.iterations = 1
        self.energies = values[1:]
        self.end = self.time + first_s

    def ends(self, iterations: int) -> float:
        """The time of a boundary of the leap."""
        return self.time + self.first_s * iterations + self.slope_s * (iterations * (iterations - 1) / 2)

    def boundary(self, time_s: float) -> int:
        """The first boundary (1, 2, ...) of the leap that is at or after `time_s`, ties included."""
        a, b = self.first_s, self.slope_s
        past = time_s - TIE_S - self.time
        if past <= a:
            return 1
        half = a - b / 2
        j = max(1, math.ceil(2 * past / (half + math.sqrt(half * half + 2 * b * past))))
        while a * j + b * (j * (j - 1) / 2) < past:
            j += 1
        while j > 1 and a * (j - 1) + b * ((j - 1) * (j - 2) / 2) >= past:
            j -= 1
        return j

    def cut(self, iterations: int) -> None:
        """Shorten the leap to `iterations`."""
        self.output_tok = self.output_tok // self.iterations * iterations
        self.iterations = iterations
        self.end = end = self.time + self.first_s * iterations + self.slope_s * (iterations * (iterations - 1) / 2)
        self.wake_at(end)

    def advance(self) -> None:
        """Apply the leap or step that has just ended: tokens, blocks, the row of the log, joins and finishes."""
        m = self.iterations
        n = self.decoding
        step = self.step
        context = self.context
        if n:
            if m == 1:
                self.free -= self.phase[step % self.block_tok]
            else:
                start, rest = step % self.block_tok, m % self.block_tok
                self.free -= m // self.block_tok * self.phased + sum(self.phase[start : start + rest])
            self.context = context + n * m
        chunks = self.chunks
        self.write(
            PACK_ROW(
                self.index, self.time, self.first_s, self.slope_s, m, n, context, self.prefill_tok if chunks else 0,
                len(chunks), self.output_tok, self.kv_blocks - self.free, len(self.running), len(self.waiting),
            )
        )  # fmt: skip
        self.iterations = 0
        self.step = step = step + m
        self.time = self.end
        if self.windows:
            self._advance_windows(m)
        if self.turns:
            self.turn()
        if chunks:
            self.log.energy(self.energies)
            self.chunks = ()
            self.complete(chunks)
        finishing = self.finishing
        while finishing and finishing[0][0] <= step:
            finish, _, job = heappop(finishing)
            if job.finish_step == finish:
                self.finish(job)

    def _advance_windows(self, iterations: int) -> None:
        """Log and move the sums of the finite windows."""
        for window in self.windows:
            self.log.window((window.attended, window.growing))
            window.attended += window.growing * iterations

    def complete(self, chunks: Sequence[tuple[Job, int]]) -> None:
        """Prompt chunks are computed; a request whose target is complete gets a token and decodes on."""
        for job, q in chunks:
            job.computed += q
            if job.computed == job.target:
                self.token(job)

    def token(self, job: Job) -> None:
        """The token that ends a prefill."""
        if job.generated:
            self.fleet.events.add(self.time, Event.resumed, self.index, job.row)
        else:
            self.first_token[job.row] = self.time
        job.generated += 1
        self.join(job)

    def finish(self, job: Job) -> None:
        """The request has its last token."""
        self.leave(job)
        self.release(job)
        self.outstanding -= 1
        self.asked_tok -= job.prompt
        self.finished(job, self.time)

    def settle(self, time_s: float) -> None:
        """Apply what is complete by `time_s` of the leap or step under way; the rest of it is lost."""
        if not self.iterations:
            return
        done = self.iterations
        if self.end > time_s:
            done = self.boundary(time_s + TIE_S)
            done -= self.ends(done) > time_s
        if self.chunks and self.end > time_s:
            done = 0
        if 0 < done < self.iterations:
            self.cut(done)
        if done:
            self.advance()
        self.pending = None

    def made(self, job: Job) -> int:
        """Output tokens of a decoding request."""
        return job.output - max(job.finish_step - self.step, 0)

    def close(self, time_s: float) -> None:
        """The run ends at `time_s`."""
        self.settle(time_s)
        for job in self.running:
            if job.finish_step >= 0:
                job.generated = self.made(job)
            self.requests.generated[job.row] = job.generated

    def abort(self, time_s: float) -> list[Job]:
        """Fail: everything held is lost. The requests it had, in order, ready to start again elsewhere."""
        self.settle(time_s)
        for job in list(self.running):
            if job.finish_step >= 0 and job.generated < job.output:
                self.leave(job)
        jobs = [job for job in (*self.running, *self.waiting) if job.generated < job.output]
        for job in jobs:
            if job in self.running and job.generated:
                self.fleet.events.add(self.time, Event.preempted, self.index, job.row)
            job.restart()
        self.waiting.clear()
        self.outstanding, self.asked_tok = self.incoming, 0
        self.reset(time_s)
        return jobs

    def expect(self) -> None:
        """The KV of a request sets out for here; from now on it counts as outstanding."""
        self.incoming += 1
        self.outstanding += 1

    def arrived(self) -> None:
        """It is here, and about to be submitted."""
        self.incoming -= 1
        self.outstanding -= 1

    def withdraw(self, job: Job, time_s: float) -> bool:
        """Take a request that was never admitted out of the queue; whether it was there."""
        if job.preemptions or job not in self.waiting:
            return False
        self.waiting.remove(job)
        self.outstanding -= 1
        self.asked_tok -= job.prompt
        if self.waiting:
            self.reconsider(time_s)
        return True

    def reconsider(self, time_s: float) -> None:
        """The queue or the pool changed: look again at the next boundary, or now if nothing runs."""
        if self.pending is None:
            self.time = self.end = max(self.end, time_s)
            self.wake_at(self.time)
        elif self.iterations > 1:
            done = self.boundary(time_s)
            if done < self.iterations:
                self.cut(done)
