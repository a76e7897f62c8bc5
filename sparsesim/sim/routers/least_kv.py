from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class LeastKv(Router):
    """The replica with the smallest share of its KV blocks spoken for: in use, or wanted by requests that wait."""

    def chooser(self) -> Choose:
        """Stateless; a replica reports the blocks of its latest boundary."""

        def load(replica: Replica) -> float:
            wanted = sum(replica.blocks(job.target) for job in replica.waiting)
            return (replica.used_blocks + wanted) / max(replica.kv_blocks, 1)

        def choose(_job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            return min(up, key=load)

        return choose
