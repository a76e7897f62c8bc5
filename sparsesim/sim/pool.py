"""A pool: replicas of one role behind one router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sparsesim.sim.admission import Admission
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.log import Event
from sparsesim.sim.replica import Replica, ReplicaSpec
from sparsesim.sim.request import Job, Outcome
from sparsesim.sim.routers.base import Router
from sparsesim.sim.schedulers.base import Scheduler

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet

Role = Literal["serve", "prefill", "decode"]


@dataclass(frozen=True)
class PoolSpec:
    """What a pool is made of: its replicas, the router before them, how each forms its batches, and how many they are.

    With `autoscale` the replicas are those at the start, the first one the pattern.
    """

    replicas: Sequence[ReplicaSpec]
    router: Router
    scheduler: Scheduler
    autoscale: Autoscale | None = None


class Pool:
    """Run-time state of a pool.

    Attributes:
        up: replicas that take requests.
        replicas: all it ever had.
        stranded: requests that came while no replica was up.

    """

    def __init__(self, fleet: Fleet, spec: PoolSpec, role: Role, admission: Admission | None = None) -> None:
        self.fleet, self.spec, self.role, self.admission = fleet, spec, role, admission
        self.placed = fleet.log.replica
        self.choose = spec.router.chooser()
        self.replicas: list[Replica] = []
        self.up: list[Replica] = []
        self.stranded: list[Job] = []
        self.alike = len({id(one) for one in spec.replicas}) == 1
        self.direct = self.alike and admission is None
        for one in spec.replicas:
            self.raise_up(self.add(one), 0.0)

    def add(self, spec: ReplicaSpec) -> Replica:
        """One more replica, not yet up."""
        fleet = self.fleet
        replica = self.spec.scheduler.replica(fleet, len(fleet.replicas), spec, self.role)
        replica.pool = self
        fleet.replicas.append(replica)
        self.replicas.append(replica)
        return replica

    def raise_up(self, replica: Replica, now_s: float) -> None:
        """The replica takes requests from now on, first those that found none."""
        self.up.append(replica)
        self.up.sort(key=lambda one: one.index)
        stranded, self.stranded = self.stranded, []
        for job in stranded:
            self.dispatch(job, now_s)

    def take_down(self, replica: Replica) -> None:
        """The replica takes no more requests."""
        if replica in self.up:
            self.up.remove(replica)

    def dispatch(self, job: Job, now_s: float) -> None:
        """Send a request to a replica, or turn it away."""
        if self.direct and self.up:
            replica = self.choose(job, self.up, now_s)
            self.placed[job.row] = replica.index
            replica.submit(job, now_s)
            return
        self._dispatch(job, now_s)

    def _dispatch(self, job: Job, now_s: float) -> None:
        """The same where someone may be turned away or no replica may do."""
        replica = self.pick(job, now_s)
        if replica is None:
            return
        if self.admission is not None and not job.generated:
            if replica.outstanding >= self.admission.limit(job.priority):
                self.fleet.ended(job, Outcome.rejected_full, now_s)
                return
            self.admission.watch(self.fleet, replica, job, now_s)
        self.placed[job.row] = replica.index
        replica.submit(job, now_s)

    def pick(self, job: Job, now_s: float) -> Replica | None:
        """The router's choice; without a replica that can take it the request is kept until one comes up."""
        up = self.up
        if not self.alike:
            up = [replica for replica in up if replica.refusal(job) is None]
        if up:
            return self.choose(job, up, now_s)
        self.stranded.append(job)
        return None

    def fail(self, replica: Replica, now_s: float) -> None:
        """The replica loses everything it holds; its requests start again elsewhere, with the tokens they had."""
        self.take_down(replica)
        for job in replica.abort(now_s):
            self.fleet.events.add(now_s, Event.rerouted, replica.index, job.row)
            self.fleet.entry.dispatch(job, now_s)
