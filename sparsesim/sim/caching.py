"""Continuous batching with a prefix cache.

A request that enters skips the leading blocks of its prompt that are held, all but its last token, which must be
computed for there to be a next one. Blocks are held from the moment at which their computation is scheduled (vLLM V1,
KVCacheManager.allocate_slots). Idle blocks count as free: the leap's arithmetic stays as it is, and they are evicted
at the boundary at which the pool has no other block left. With `host_blocks` they go to host memory (on the side) and
are fetched back when hit, which delays the iteration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsesim.sim.entering import EnteringReplica
from sparsesim.sim.prefix import PrefixCache
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.request import Job
from sparsesim.sim.schedulers.continuous import Continuous

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet


class CachingReplica(EnteringReplica):
    """A continuously batching replica that keeps prefixes."""

    __slots__ = ("cache", "id_tok")

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec, rules: Continuous) -> None:
        super().__init__(fleet, index, spec, rules)
        assert fleet.table.prefix_blocks is not None
        self.id_tok = fleet.table.prefix_blocks.block_tok
        self.cache = self.empty_cache()

    def empty_cache(self) -> PrefixCache:
        """A cache that holds nothing."""
        kv_blocks = self.blocks(self.id_tok)
        return PrefixCache(kv_blocks, self.spec.prefix_cache == "unbounded", self.spec.host_blocks // kv_blocks)

    def reset(self, time_s: float) -> None:
        """An empty batch, pool and cache."""
        super().reset(time_s)
        if hasattr(self, "cache"):
            self.cache = self.empty_cache()

    def cached_tok(self, job: Job) -> int:
        """Leading tokens of the request that need not be computed here."""
        return self.cache.match(job.hashes[: (job.target - 1) // self.id_tok]) * self.id_tok

    def entry(self, job: Job, budget: int) -> tuple[int, int, int]:
        """Ids it would reuse, tokens of its first chunk, and blocks that this takes from what counts as free."""
        hits = self.cached_tok(job) // self.id_tok
        cached = hits * self.id_tok
        q = min(job.target - cached, budget)
        shared = hits - self.cache.idle_among(job.hashes[:hits])
        return hits, q, self.held_for(job, cached + q) - shared * self.cache.kv_blocks

    def admissible(self, job: Job, boundary: int) -> bool:
        """Whether it may enter; where it would reuse idle ids, that is only known at the boundary."""
        budget = self.token_budget - self.decoding
        if budget <= 0 or len(self.running) >= self.places:
            return False
        if job.computed:
            return super().admissible(job, boundary)
        hits, _, need = self.entry(job, budget)
        return self.cache.idle_among(job.hashes[:hits]) > 0 or need <= self.free - self.grown(boundary + 1)

    def leap(self, most: int | None = None) -> None:
        """Leap, but not past an eviction while the first in the queue waits.

        A chunk that starts after fewer cached tokens also ends earlier: losing an idle id can let it in.
        """
        if self.waiting and self.cache.idle and most is None and not self.cache.unbounded:
            most = max(1, self.affordable(self.free - len(self.cache.idle) * self.cache.kv_blocks))
        super().leap(most)

    def enter(self, job: Job, hits: int, q: int, need: int) -> None:
        """Take what is cached and the blocks of the first chunk."""
        job.held = job.hashes[:hits]
        if hits:
            fetched = self.cache.use(job.held)
            self.late_s += fetched * self.cache.kv_blocks * (self.spec.swap_s_per_block or 0.0)
        job.computed = hits * self.id_tok
        self.free -= need
        job.blocks = self.held_for(job, job.computed + q)
        self.prefilling = job if job.computed + q < job.target else None
        self.keep(job, job.computed + q)
        if not job.preemptions:
            self.admitted[job.row] = self.time
            self.requests.cached[job.row] = job.computed

    def keep(self, job: Job, tokens: int) -> None:
        """Hold the blocks of its prompt that are full once `tokens` are computed."""
        if tokens // self.id_tok > len(job.held):
            job.held += self.cache.add(job.hashes[len(job.held) : tokens // self.id_tok])

    def take_chunk(self, job: Job, budget: int, free: int) -> tuple[int, int]:
        """Take blocks for a chunk; its tokens and the blocks left."""
        q, free = super().take_chunk(job, budget, free)
        self.keep(job, job.computed + q)
        self.cache.shrink(free)
        return q, free

    def advance(self) -> None:
        """Apply the leap; what decoding took may have been an idle block, before any request gave blocks back."""
        cache, m = self.cache, self.iterations
        if self.free - self.phased * (m // self.block_tok + 1) < len(cache.idle) * cache.kv_blocks:
            cache.shrink(self.free - self.grown(m))
        super().advance()

    def make_room(self, free: int) -> None:
        """Evict what no longer counts as free."""
        self.cache.shrink(free)

    def release(self, job: Job) -> None:
        """Give back what the request holds, its place among the running ones included."""
        self.give_back(job)
        del self.running[job]

    def give_back(self, job: Job) -> None:
        """Free the request's own blocks, and the shared ones that nobody else uses."""
        idle = self.cache.release(job.held)
        self.free += job.blocks - (len(job.held) - idle) * self.cache.kv_blocks
        job.held = ()
        job.blocks = 0
