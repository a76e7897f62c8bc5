"""Continuous batching where requests enter by more than a prompt's first chunk.

`admit` of `ContinuousReplica` is written out for its own rule, as it runs for every request. Here it asks `entry` what
a request takes and lets `enter` take it, which replicas that share blocks or reserve them change.
"""

from __future__ import annotations

from sparsesim.sim.request import Job
from sparsesim.sim.schedulers.continuous import ContinuousReplica


class EnteringReplica(ContinuousReplica):
    """A continuously batching replica that admits through `entry` and `enter`."""

    __slots__ = ()

    def admit(self, free: int) -> list[tuple[Job, int]]:
        """The chunks of an iteration; what the decoding ones take goes before what `make_room` can free."""
        self.make_room(free)
        budget = self.token_budget - self.decoding
        chunks: list[tuple[Job, int]] = []
        job = self.prefilling
        if job is not None and budget:
            q, free = self.take_chunk(job, budget, free)
            chunks.append((job, q))
            budget -= q
        while self.waiting and budget > 0 and len(self.running) < self.places:
            job = self.waiting[0]
            if job.computed:
                if (free := self.enter_ready(job, free)) < 0:
                    break
                self.make_room(free)
                budget -= 1
                continue
            hits, q, need = self.entry(job, budget)
            if need > free:
                break
            free = self.take_waiting(job, hits, q, need, free)
            chunks.append((job, q))
            budget -= q
        return chunks
