"""Batching after SGLang's scheduler (github.com/sgl-project/sglang, python/sglang/srt/managers/scheduler.py).

Prompts come first: as long as a waiting request can enter, an iteration computes prompt chunks alone and the decoding
sequences pause. A request enters if, besides its chunk's blocks, the tokens that all running ones hold, a share
`new_token_ratio` of what they will still generate, and the whole of the new one fit the pool. When decoding runs out
of blocks, the requests with the fewest tokens generated are retracted; they queue at the end and compute everything
again. Kept simple: the ratio is constant (SGLang lowers it with every step and raises it at a retraction), and what a
request will generate is known (SGLang takes the asked-for maximum).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.sim.caching import CachingReplica
from sparsesim.sim.log import Event
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.request import Job
from sparsesim.sim.schedulers.base import Scheduler
from sparsesim.sim.schedulers.continuous import Continuous, ContinuousReplica

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet

LONGEST_QUEUE_TO_SORT = 128  # SGLang's CacheAwarePolicy falls back to arrival order beyond


class Sglang(Scheduler):
    """Prompts first, conservative admission, retraction of those that have least.

    Attributes:
        max_running: requests in the batch at most.
        token_budget: prompt tokens in an iteration at most (chunked prefill size; SGLang's default on an H100).
        new_token_ratio: share of the remaining output of running requests that is reserved (SGLang starts at 0.7).
        policy: fcfs, or lpm: longest held prefix first while at most 128 wait.

    """

    max_running: int = Field(256, ge=1)
    token_budget: int = Field(8192, ge=1)
    new_token_ratio: float = Field(0.7, ge=0, le=1)
    policy: Literal["fcfs", "lpm"] = "fcfs"

    def replica(self, fleet: Fleet, index: int, spec: ReplicaSpec, role: str = "serve") -> SglangReplica:
        """A replica that serves prompts first.

        Raises:
            InputError: in a pool of prefill or decode replicas.

        """
        if role != "serve":
            raise InputError(Problem(f"sglang has no {role} role here", path="scheduler", hint="continuous"))
        plain = spec.prefix_cache == "off" or fleet.table.prefix_blocks is None
        rules = Continuous.model_construct(max_running=self.max_running, token_budget=self.token_budget, policy="fcfs")
        replica = (SglangReplica if plain else CachingSglangReplica)(fleet, index, spec, rules)
        replica.ratio, replica.by_prefix = self.new_token_ratio, self.policy == "lpm"
        return replica


class SglangReplica(ContinuousReplica):
    """A replica that serves prompts first."""

    # no slots: two parents with slots of their own could not be joined below
    ratio: float
    by_prefix: bool

    def reset(self, time_s: float) -> None:
        """Nothing runs, nothing pauses."""
        super().reset(time_s)
        self.paused = 0

    def submit(self, job: Job, now_s: float) -> None:
        """Queue a request; sorted by prefix, any arrival may be the next to enter."""
        alone = not self.waiting
        super().submit(job, now_s)
        if self.by_prefix and not alone and self.iterations > 1:
            self.reconsider(now_s)

    def admissible(self, job: Job, boundary: int) -> bool:
        """Whether the first in the queue could enter at a boundary of the leap; the decoding ones would pause."""
        if len(self.running) >= self.places or not self.fits(job, boundary):
            return False
        hits, _, need = self.entry(job, self.token_budget)
        return hits > 0 or need <= self.free - self.grown(boundary)

    def fits(self, job: Job, iterations: int = 0) -> bool:
        """Whether the pool would hold the request whole, beside what the others have and are expected to take.

        Decoding takes a token and gives back a share of a reserved one: what does not fit now does not fit later in
        the leap. Counted in tokens of one KV group.
        """
        if not self.running or not self.full_groups:
            return True
        step = self.step + iterations
        committed = 0.0
        for other in self.running:
            if other.finish_step < 0:
                committed += other.target + self.ratio * (other.output - other.generated)
            else:
                committed += step + other.offset - 1 + self.ratio * (other.finish_step - step)
        own = job.target + job.output - job.generated - 1
        return committed + own <= self.kv_blocks // self.full_groups * self.block_tok

    def plan(self) -> None:
        """Prompts if any can be computed, else decoding, retracting where blocks are short."""
        if self.prefilling is not None or self.waiting:
            chunks = self.admit(self.free)
            if chunks:
                self.swap()
                self.mixed_step(chunks)
                return
        if not self.decoding:
            return
        if self.phase[self.step % self.block_tok] > self.free:
            self.retract()
            if not self.decoding:  # what is left is a prompt, which can go on now
                self.plan()
                return
            self.leap(most=1)
        else:
            self.leap()

    def admit(self, free: int) -> list[tuple[Job, int]]:
        """The chunks of an iteration without decoding."""
        budget = self.token_budget
        chunks: list[tuple[Job, int]] = []
        self.make_room(free)
        job = self.prefilling
        if job is not None:
            q = min(job.target - job.computed, budget)
            if self.blocks(job.computed + q) - job.blocks > free:
                return []
            q, free = self.take_chunk(job, budget, free)
            chunks.append((job, q))
            budget -= q
        if self.by_prefix and 1 < len(self.waiting) <= LONGEST_QUEUE_TO_SORT:
            self.waiting = deque(sorted(self.waiting, key=lambda one: -self.cached_tok(one)))
        while self.waiting and budget > 0 and len(self.running) < self.places and self.prefilling is None:
            job = self.waiting[0]
            hits, q, need = self.entry(job, budget)
            if need > free or not self.fits(job):
                break
            free = self.take_waiting(job, hits, q, need, free)
            chunks.append((job, q))
            budget -= q
        return chunks

    def mixed_step(self, chunks: Sequence[tuple[Job, int]], extra_s: float = 0.0) -> None:
        """An iteration of prompts alone: the decoding sequences are out of sight until it ends."""
        self.paused, self.decoding = self.decoding, 0
        super().mixed_step(chunks, extra_s)

    def advance(self) -> None:
        """Apply the leap or step; while the decoding sequences pause, their clock stands still."""
        if self.chunks:
            self.step -= 1
        super().advance()

    def complete(self, chunks: Sequence[tuple[Job, int]]) -> None:
        """Prompt chunks are computed, and the paused sequences are back."""
        self.decoding, self.paused = self.paused, 0
        super().complete(chunks)

    def _advance_windows(self, iterations: int) -> None:
        """Log and move the sums of the finite windows; nothing moves while decoding pauses."""
        super()._advance_windows(0 if self.chunks else iterations)

    def settle(self, time_s: float) -> None:
        """Apply what is complete; a step of prompts that is cut off lets the paused sequences go on."""
        super().settle(time_s)
        if self.paused:
            self.decoding, self.paused = self.paused, 0

    def retract(self) -> None:
        """Make room for the next token of the others: out goes who has generated least, of equals the longest."""
        while self.phase[self.step % self.block_tok] > self.free and len(self.running) > 1:
            decoding = [job for job in self.running if job.finish_step >= 0]
            victim = min(decoding, key=lambda job: (job.output - job.finish_step + self.step, -job.prompt, -job.row))
            self.leave(victim)
            self.release(victim)
            victim.restart()
            victim.preemptions += 1
            self.waiting.append(victim)
            self.requests.preemptions[victim.row] += 1
            self.fleet.events.add(self.time, Event.preempted, self.index, victim.row)


class CachingSglangReplica(SglangReplica, CachingReplica):
    """Prompts first, with a prefix cache."""

    def advance(self) -> None:
        """Apply the leap or step; in a step of prompts decoding takes no block."""
        if self.chunks:
            self.step -= 1
            ContinuousReplica.advance(self)
        else:
            CachingReplica.advance(self)
