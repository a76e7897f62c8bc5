"""Admission control: whom to turn away so that those inside are served in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from simpy.events import Timeout

from sparsesim import units
from sparsesim.families import Frozen
from sparsesim.sim.request import Job, Outcome

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet
    from sparsesim.sim.replica import Replica

UNLIMITED = 1 << 62


class Admission(Frozen):
    """Limits by class of request; the class is its priority, 0 the most important.

    Attributes:
        max_outstanding: requests waiting or running on the chosen replica from which on a request of each class is
            turned away (rejected_full); the last entry holds for all classes beyond. Empty: no limit.
        max_wait: how long a request waits for its first admission before it gives up (timed_out); None: for ever.

    """

    max_outstanding: tuple[int, ...] = ()
    max_wait: units.Seconds | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Admission:
        if not self.max_outstanding and self.max_wait is None:
            raise ValueError("nobody is turned away: name max_outstanding or max_wait")
        return self

    def limit(self, priority: int) -> int:
        """Outstanding requests at which a class is turned away."""
        limits = self.max_outstanding
        return limits[min(max(priority, 0), len(limits) - 1)] if limits else UNLIMITED

    def watch(self, fleet: Fleet, replica: Replica, job: Job, now_s: float) -> None:
        """Let the request give up after `max_wait`, if it has not been admitted by then."""
        if self.max_wait is None:
            return
        late_s = now_s + self.max_wait

        def give_up(_: object) -> None:
            if replica.withdraw(job, late_s):
                fleet.ended(job, Outcome.timed_out, late_s)

        Timeout(fleet.env, late_s - fleet.env.now).callbacks.append(give_up)
