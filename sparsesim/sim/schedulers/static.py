"""Static batching: a batch is formed, computed to its end, and only then followed by the next.

The prompts of a batch are computed in one iteration. A sequence that is done is answered at once, but its row stays
in the batch, computed and padded, until the longest is done; KV is reserved as a rectangle, each prompt plus the
longest output (as in engines without continuous batching, e.g. FasterTransformer; Orca, OSDI 2022, section 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.sim.replica import Replica, ReplicaSpec
from sparsesim.sim.request import Job
from sparsesim.sim.schedulers.base import Scheduler

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet


class Static(Scheduler):
    """Static batching: whatever waits when the replica is free, up to `batch` requests.

    Attributes:
        batch: requests in a batch at most.

    """

    batch: int = Field(32, ge=1)

    def replica(self, fleet: Fleet, index: int, spec: ReplicaSpec, role: str = "serve") -> StaticReplica:
        """A replica that serves one batch after another.

        Raises:
            InputError: in a pool of prefill or decode replicas.

        """
        if role != "serve":
            raise InputError(Problem(f"static batching has no {role} role", path="scheduler", hint="continuous"))
        return StaticReplica(fleet, index, spec, self)


class StaticReplica(Replica):
    """A replica that serves one batch after another."""

    __slots__ = ("places", "unfinished")

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec, rules: Static) -> None:
        self.places = rules.batch if spec.state_slots is None else min(rules.batch, spec.state_slots)
        super().__init__(fleet, index, spec)
        self.grows = False

    def reset(self, time_s: float) -> None:
        """No batch."""
        super().reset(time_s)
        self.unfinished = 0  # sequences of the batch that still want tokens

    def submit(self, job: Job, now_s: float) -> None:
        """Queue a request; it never changes the batch that runs."""
        self.waiting.append(job)
        self.outstanding += 1
        self.asked_tok += job.prompt
        if self.pending is None:
            self.time = self.end = now_s
            self.wake_at(now_s)

    def plan(self) -> None:
        """Go on with the batch, or form the next one."""
        if self.decoding:
            self.leap()
            self.output_tok = self.unfinished * self.iterations
            return
        batch = self.form()
        if batch:
            self.unfinished = len(batch)
            self.mixed_step([(job, job.prompt) for job in batch])

    def form(self) -> list[Job]:
        """Take the next batch from the queue, with its memory."""
        batch: list[Job] = []
        longest = 0
        while self.waiting and len(batch) < self.places:
            candidates = [*batch, self.waiting[0]]
            longest = max(longest, self.waiting[0].output)
            sizes = [self.blocks(job.prompt + longest - 1) for job in candidates]
            if sum(sizes) > self.free:
                break
            for job, size in zip(candidates, sizes, strict=True):
                job.blocks = size
            batch.append(self.waiting.popleft())
        for job in batch:
            self.free -= job.blocks
            self.running[job] = None
            self.requests.admitted[job.row] = self.time
        return batch

    def finish(self, job: Job) -> None:
        """Answer the request; the batch ends with its last one."""
        self.unfinished -= 1
        job.generated = job.output
        self.outstanding -= 1
        self.asked_tok -= job.prompt
        self.finished(job, self.time)
        if not self.finishing:
            for done in list(self.running):
                self.release(done)
            self.decoding = self.context = 0
            self.turns.clear()
            for window in self.windows:
                window.attended = window.growing = 0
