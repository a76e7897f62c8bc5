"""Continuous batching by the rules of vLLM V1's scheduler (github.com/vllm-project/vllm, vllm/v1/core/sched).

An iteration first serves the running requests, in order: one token for each that decodes, the rest of its prompt (as
far as the token budget goes) for the one that prefills. Then waiting ones, in order of priority and arrival, are
admitted with the budget left, until budget, places or blocks run out; the first that cannot enter blocks those behind
it. A running request that finds no block preempts the last one, which gives up its blocks, goes to the front of the
queue and later computes its prompt and its output again; nothing is admitted in that iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from sparsesim.errors import InputError, Problem
from sparsesim.sim.log import Event
from sparsesim.sim.replica import Replica, ReplicaSpec
from sparsesim.sim.request import Job
from sparsesim.sim.schedulers.base import Scheduler
from sparsesim.sim.speculation import Speculation

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet


class Continuous(Scheduler):
    """Continuous batching with chunked prefill and one token budget per iteration.

    Attributes:
        max_running: requests in the batch at most.
        token_budget: tokens computed in an iteration at most, prefill and decode together.
        policy: fcfs serves by arrival, priority by (priority, arrival), the lowest number first.
        preemption: recompute drops the KV of a preempted request; swap moves that of a decoding one to host memory
            and back before it goes on (the replica says how long a block takes; meanwhile nothing is computed).
        speculation: drafts before every step, if any; the step model must cost verify steps.

    """

    max_running: int = Field(256, ge=1)
    token_budget: int = Field(2048, ge=1)
    policy: Literal["fcfs", "priority"] = "fcfs"
    preemption: Literal["recompute", "swap"] = "recompute"
    speculation: Speculation | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Continuous:
        if self.token_budget < self.max_running:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_running {self.max_running}: "
                "an iteration could not give every running request a token"
            )
        if self.speculation is not None and self.preemption == "swap":
            raise ValueError("swap: speculation reserves a request's blocks when it enters, so nobody is preempted")
        return self

    def replica(self, fleet: Fleet, index: int, spec: ReplicaSpec, role: str = "serve") -> ContinuousReplica:
        """A replica that batches continuously.

        Raises:
            InputError: speculation where nothing decodes; swapping beside a prefix cache or without a time for it.

        """
        if self.preemption == "swap" and (spec.swap_s_per_block is None or spec.prefix_cache != "off"):
            text = "swapping needs the replica's swap_s_per_block and goes with no prefix cache"
            raise InputError(Problem(text, path="scheduler.preemption", hint="recompute"))
        from sparsesim.sim.caching import CachingReplica
        from sparsesim.sim.prefilling import CachingPrefillReplica, PrefillReplica
        from sparsesim.sim.speculating import CachingSpeculativeReplica, SpeculativeReplica

        plain = spec.prefix_cache == "off" or fleet.table.prefix_blocks is None
        if self.speculation is not None:
            if role == "prefill":
                text = "prefill replicas do not decode: there is nothing to draft"
                raise InputError(Problem(text, path="scheduler.speculation", hint="on the decode pool"))
            kind = SpeculativeReplica if plain else CachingSpeculativeReplica
            return kind(fleet, index, spec, self, self.speculation)
        if role == "prefill":
            return (PrefillReplica if plain else CachingPrefillReplica)(fleet, index, spec, self)
        return (ContinuousReplica if plain else CachingReplica)(fleet, index, spec, self)


class RankQueue:
    """Waiting requests in order of rank, with the methods of a deque that the scheduler uses."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, int], Job]] = []
        self._members: set[Job] = set()  # what is in the heap but not here was taken out

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Job]:
        return iter(sorted(self._members, key=lambda job: job.rank))

    def __contains__(self, job: object) -> bool:
        return job in self._members

    def __getitem__(self, place: int) -> Job:
        """The first; there is no other place to ask for."""
        heap = self._heap
        while heap[0][1] not in self._members:
            heappop(heap)
        return heap[place][1]

    def append(self, job: Job) -> None:
        """Add one at its rank."""
        self._members.add(job)
        heappush(self._heap, (job.rank, job))

    appendleft = append

    def popleft(self) -> Job:
        """Take the first."""
        job = self[0]
        heappop(self._heap)
        self._members.remove(job)
        return job

    def clear(self) -> None:
        """Take all out."""
        self._heap.clear()
        self._members.clear()

    def remove(self, job: Job) -> None:
        """Take one out."""
        self._members.remove(job)


class ContinuousReplica(Replica):
    """A replica that batches continuously."""

    __slots__ = ("by_rank", "late_s", "places", "prefilling", "swap_s", "token_budget")

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec, rules: Continuous) -> None:
        self.token_budget = rules.token_budget
        self.by_rank = rules.policy == "priority"
        self.swap_s = (spec.swap_s_per_block or 0.0) if rules.preemption == "swap" else None
        slots = spec.state_slots
        self.places = rules.max_running if slots is None else min(rules.max_running, slots)
        super().__init__(fleet, index, spec)
        if self.by_rank:
            self.waiting = RankQueue()

    def reset(self, time_s: float) -> None:
        """Nothing runs."""
        super().reset(time_s)
        self.late_s = 0.0  # of the next iteration, for swapping
        self.prefilling: Job | None = None

    def submit(self, job: Job, now_s: float) -> None:
        """Queue a request; if it can enter at a boundary inside the leap, the leap ends there."""
        waiting = self.waiting
        waiting.append(job)
        self.outstanding += 1
        self.asked_tok += job.prompt
        if self.pending is None:
            self.time = self.end = now_s
            self.wake_at(now_s)
        elif self.iterations > 1 and waiting[0] is job:
            j = self.boundary(now_s)
            if j < self.iterations and self.admissible(job, j):
                self.cut(j)

    def admissible(self, job: Job, boundary: int) -> bool:
        """Whether the first in the queue could enter at a boundary of the leap."""
        budget = self.token_budget - self.decoding
        if budget <= 0 or len(self.running) >= self.places:
            return False
        need = self.held_for(job, job.target + 1 if job.computed else min(job.target, budget))
        if need <= self.free - self.phased * ((boundary + 1) // self.block_tok + 1):
            return True
        return need <= self.free - self.grown(boundary + 1)

    def plan(self) -> None:
        """Serve the running, admit the waiting, start the iteration or the leap."""
        free = self.free
        if self.decoding:
            free -= self.phase[self.step % self.block_tok]
        prefilling = self.prefilling
        if free < 0 or (prefilling is not None and self.chunk_blocks(prefilling) > free):
            self.preempting_step()
        elif prefilling is not None or self.waiting:
            chunks = self.admit(free)
            if self.late_s:
                self.swap()
            if chunks:
                self.mixed_step(chunks)
            elif self.decoding:
                self.leap()
        elif self.decoding:
            self.leap()

    def chunk_blocks(self, job: Job) -> int:
        """Blocks that the next chunk of the prefilling request takes."""
        q = min(job.target - job.computed, self.token_budget - self.decoding)
        return self.held_for(job, job.computed + q) - job.blocks

    def held_for(self, job: Job, tokens: int) -> int:
        """Blocks that the request holds once `tokens` of it have KV here."""
        del job
        return self.blocks(tokens)

    def admit(self, free: int) -> list[tuple[Job, int]]:
        """The chunks of an iteration; `free` blocks are left beside what the decoding ones take."""
        budget = self.token_budget - self.decoding
        chunks: list[tuple[Job, int]] = []
        job = self.prefilling
        if job is not None and budget:
            q, free = self.take_chunk(job, budget, free)
            chunks.append((job, q))
            budget -= q
        waiting, running, places = self.waiting, self.running, self.places
        while waiting and budget > 0 and len(running) < places:
            job = waiting[0]
            target = job.target
            if job.computed:
                if (free := self.enter_ready(job, free)) < 0:
                    break
                budget -= 1
                continue
            q = target if target < budget else budget
            need = -(-q // self.block_tok) if self.one_group else self.blocks(q)
            if need > free:
                break
            waiting.popleft()
            running[job] = None
            job.blocks = need
            self.free -= need
            free -= need
            budget -= q
            if q < target:
                self.prefilling = job
            chunks.append((job, q))
            if not job.preemptions:
                self.admitted[job.row] = self.time
        return chunks

    def entry(self, job: Job, budget: int) -> tuple[int, int, int]:
        """Cached ids it would reuse, tokens of its first chunk, and blocks that this takes."""
        q = min(job.target, budget)
        return 0, q, self.held_for(job, q)

    def enter(self, job: Job, hits: int, q: int, need: int) -> None:
        """Take the blocks of the first chunk."""
        del hits
        self.free -= need
        job.blocks = need
        self.prefilling = job if q < job.target else None
        if not job.preemptions:
            self.admitted[job.row] = self.time

    def enter_ready(self, job: Job, free: int) -> int:
        """Let a request whose KV is elsewhere decode from this iteration on; the blocks left, -1 if there are none."""
        need = self.held_for(job, job.target + 1)
        if need > free:
            return -1
        self.waiting.popleft()
        self.running[job] = None
        job.blocks = held = self.held_for(job, job.target)
        self.free -= held
        self.join(job)
        back = job.preemptions > 0 and self.swap_s is not None
        self.fleet.events.add(self.time, Event.resumed if back else Event.transferred, self.index, job.row)
        if back:
            self.late_s += held * (self.swap_s or 0.0)
        return free - need

    def take_chunk(self, job: Job, budget: int, free: int) -> tuple[int, int]:
        """Take blocks for a chunk; its tokens and the blocks left."""
        left = job.target - job.computed
        q = left if left < budget else budget
        held = self.held_for(job, job.computed + q)
        need = held - job.blocks
        job.blocks = held
        self.free -= need
        self.prefilling = job if q < left else None
        return q, free - need

    def preempting_step(self) -> None:
        """Serve the running in order, preempting the last where one finds no block; nothing is admitted."""
        promised = 0
        granted: dict[Job, int] = {}
        for job in list(self.running):
            if job not in self.running:
                continue
            while job in self.running and (need := self.next_blocks(job)) > self.free - promised:
                victim = self.victim()
                promised -= granted.pop(victim, 0)
                self.preempt(victim)
            if job in self.running:
                granted[job] = need
                promised += need
                self.make_room(self.free - promised)
        self.swap()
        job_left = self.prefilling
        if job_left is not None and self.token_budget > self.decoding:
            free = self.free - (self.phase[self.step % self.block_tok] if self.decoding else 0)
            q, _ = self.take_chunk(job_left, self.token_budget - self.decoding, free)
            self.mixed_step([(job_left, q)])
        elif self.decoding:
            self.leap(most=1)
        else:
            self.plan()

    def swap(self) -> None:
        """Let the next iteration start when all that is swapped has been moved."""
        self.time += self.late_s
        self.late_s = 0.0

    def take_waiting(self, job: Job, hits: int, q: int, need: int, free: int) -> int:
        """Let the first waiting request in with what `entry` said it takes; the blocks that are left."""
        self.waiting.popleft()
        self.running[job] = None
        self.enter(job, hits, q, need)
        self.make_room(free - need)
        return free - need

    def make_room(self, free: int) -> None:
        """Blocks were granted; `free` are left. A prefix cache gives way here."""

    def next_blocks(self, job: Job) -> int:
        """Blocks that a running request takes in the next iteration."""
        if job.finish_step < 0:
            return self.chunk_blocks(job)
        context = self.step + job.offset
        return self.blocks(context) - self.blocks(context - 1)

    def victim(self) -> Job:
        """The running request that is preempted first."""
        if self.by_rank:
            return max(self.running, key=lambda job: job.rank)
        return next(reversed(self.running))

    def preempt(self, job: Job) -> None:
        """Take a request out of the batch; it will compute everything it has again, or fetch it back."""
        self.fleet.events.add(self.time, Event.preempted, self.index, job.row)
        swapped = self.swap_s is not None and job.finish_step >= 0
        if job.finish_step >= 0:
            self.leave(job)
        if self.prefilling is job:
            self.prefilling = None
        if swapped:
            self.late_s += job.blocks * (self.swap_s or 0.0)
        self.release(job)
        if swapped:
            job.target = job.computed
        else:
            job.restart()
        job.preemptions += 1
        self.waiting.appendleft(job)
        self.requests.preemptions[job.row] += 1
