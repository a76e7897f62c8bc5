from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class RoundRobin(Router):
    """Each replica in turn."""

    def chooser(self) -> Choose:
        """Count requests; the count modulo the replicas that are up is the choice."""
        turn = -1

        def choose(_job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            nonlocal turn
            turn = (turn + 1) % len(up)
            return up[turn]

        return choose
