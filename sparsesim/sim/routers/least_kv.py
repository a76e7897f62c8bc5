from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class LeastKv(Router):
    """The replica with the smallest share of its KV blocks spoken for.

    That is what is in use at its latest boundary, or what the prompts of its outstanding requests take, if that is
    more (some of them wait).
    """

    def chooser(self) -> Choose:
        """Stateless: the replicas count for themselves."""

        def load(replica: Replica) -> float:
            spoken_for = max(replica.used_blocks, replica.blocks(replica.asked_tok))
            return spoken_for / max(replica.kv_blocks, 1)

        def choose(_job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            return min(up, key=load)

        return choose
