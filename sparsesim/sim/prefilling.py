"""A replica of a prefill pool: it computes prompts, hands their KV on, and keeps it until it has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsesim.sim.caching import CachingReplica
from sparsesim.sim.log import Event
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.request import Job, Outcome
from sparsesim.sim.schedulers.continuous import Continuous, ContinuousReplica

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet


class PrefillReplica(ContinuousReplica):
    """Prefills only; a request leaves with its first token."""

    # no slots: two parents with slots of their own could not be joined below

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec, rules: Continuous) -> None:
        self.sending: set[Job] = set()
        super().__init__(fleet, index, spec, rules)

    def reset(self, time_s: float) -> None:
        """Nothing runs, and what was being sent is gone from here."""
        super().reset(time_s)
        self.sending.clear()

    @property
    def held(self) -> int:
        """Requests that need this replica to be on, those whose KV is leaving it included."""
        return super().held + len(self.sending)

    def refusal(self, job: Job) -> Outcome | None:
        """Only the prompt is held here."""
        if job.prompt + job.output > self.spec.max_context:
            return Outcome.rejected_too_long
        if self.blocks(job.target) > self.kv_blocks or self.spec.state_slots == 0:
            return Outcome.rejected_too_large
        return None

    def token(self, job: Job) -> None:
        """The prompt is computed: a request that wants no more is done, any other is handed on."""
        if job.generated:
            self.fleet.events.add(self.time, Event.resumed, self.index, job.row)
        else:
            self.first_token[job.row] = self.time
        job.generated += 1
        self.outstanding -= 1
        self.asked_tok -= job.prompt
        if job.generated == job.output:
            self.release(job)
            self.finished(job, self.time)
            return
        del self.running[job]
        self.sending.add(job)
        self.fleet.hand_on(job, self, self.time)

    def sent(self, job: Job, now_s: float) -> None:
        """The KV has arrived elsewhere: its blocks are free, and a request that lacked them may enter."""
        if job not in self.sending:
            return
        self.sending.remove(job)
        self.give_back(job)
        if self.waiting:
            self.reconsider(now_s)


class CachingPrefillReplica(PrefillReplica, CachingReplica):
    """Prefills only, with a prefix cache."""

    __slots__ = ()
