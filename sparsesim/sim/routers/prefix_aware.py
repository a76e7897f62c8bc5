from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from sparsesim.sim.request import Job
from sparsesim.sim.routers.base import Choose, Router

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica


class PrefixAware(Router):
    """The replica that holds most of the prompt, unless it is much busier than the least busy one.

    The rule of cache-aware routing in SGLang's router (sgl-router, policies/cache_aware): by load when the difference
    and the ratio of outstanding requests both exceed their limits, or when too little of the prompt is held anywhere.

    Attributes:
        least_share: share of the prompt that must be held for the cache to decide.
        difference: of outstanding requests between the busiest and the least busy replica.
        ratio: of the same.

    """

    least_share: float = Field(0.5, ge=0, le=1)
    difference: int = Field(32, ge=0)
    ratio: float = Field(1.1, ge=1)

    def chooser(self) -> Choose:
        """Stateless: the replicas' own caches are asked."""

        def choose(job: Job, up: Sequence[Replica], _now_s: float) -> Replica:
            loads = [replica.outstanding for replica in up]
            least = up[loads.index(min(loads))]
            if max(loads) - min(loads) > self.difference and max(loads) > self.ratio * min(loads):
                return least
            best = max(up, key=lambda replica: (replica.cached_tok(job), -replica.outstanding))
            return best if best.cached_tok(job) > 0 and best.cached_tok(job) >= self.least_share * job.prompt else least

        return choose
