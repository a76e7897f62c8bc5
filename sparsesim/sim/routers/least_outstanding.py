from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class LeastOutstanding(Router):
    """The replica with the fewest requests waiting or running; the first of equals."""

    def chooser(self) -> Choose:
        """Stateless: the replicas count for themselves."""
        outstanding = attrgetter("outstanding")

        def choose(_job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            return min(up, key=outstanding)

        return choose
