from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class PowerAware(Router):
    """Fill replicas one after another, so that the others can rest: the busiest that still has a free place.

    A replica at work draws much of its power whatever its batch, so a token is cheapest in a large batch. With all
    replicas at `fill` requests it is the least outstanding one.

    Attributes:
        fill: outstanding requests up to which a replica is filled.

    """

    fill: int = Field(64, ge=1)

    def chooser(self) -> Choose:
        """Stateless: the replicas count for themselves."""

        def choose(_job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            open_ = [replica for replica in up if replica.outstanding < self.fill]
            if not open_:
                return min(up, key=lambda replica: replica.outstanding)
            return max(open_, key=lambda replica: replica.outstanding)

        return choose
