"""An expert-parallel group as one value: who routes what to whom, how uneven that is, and against what even case.

Popularities are by expert number. A law sorted by popularity (`laws.zipf_popularity`) would put all hot experts on the
first rank of a contiguous placement, which no model does: take them from an `ExpertLoad`, which draws who is hot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsesim import laws
from sparsesim.cost.network.moe import Mode, dispatch_loads
from sparsesim.cost.network.placement import Assignment, Placement
from sparsesim.cost.network.routing import Routing, Visits, visits
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology import Fabric

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExpertParallel:
    """Routing over a placement on `ep` expert ranks; each is split over `ways` devices that all get its tokens."""

    routing: Routing
    assignment: Assignment
    gpus_per_node: int
    ways: int = 1

    @property
    def devices(self) -> int:
        """Of the group."""
        return self.assignment.ranks * self.ways

    @property
    def slots(self) -> int:
        """Experts in all ranks, redundant copies and empty slots included."""
        return int(self.assignment.expert.size)

    @cached_property
    def visits(self) -> Visits:
        """Where a token goes, by device and by node."""
        if self.ways == 1:
            return visits(self.routing, self.assignment, self.gpus_per_node)
        by_rank = visits(self.routing, self.assignment, 1)
        copies, rank = by_rank.copies.repeat(self.ways), by_rank.rank.repeat(self.ways)
        return Visits(copies, rank, self._node_hits())

    def _node_hits(self) -> Floats:
        width = min(self.gpus_per_node, self.devices)
        if self.devices % width:
            raise InputError(Problem(f"{self.devices} expert-parallel devices do not fill nodes of {width}"))
        owner = np.arange(self.devices).reshape(-1, width) // self.ways
        share = np.stack([self.assignment.share[np.unique(ranks)].sum(axis=0) for ranks in owner])
        return self.routing.hits(share)

    @cached_property
    def imbalance(self) -> Floats:
        """Load of every device over the mean, `[devices]`."""
        load = self.assignment.rank_load(self.routing.chosen)
        return np.asarray((load / load.mean()).repeat(self.ways))

    @cached_property
    def even(self) -> ExpertParallel:
        """The same group with every slot alike: what an even closed form assumes."""
        ranks, width = self.assignment.expert.shape
        inclusion = np.full(self.slots, self.routing.top_k / self.slots)
        groups = self.routing.groups if self.slots % self.routing.groups == 0 else 1
        limit = self.routing.group_limit if groups > 1 else 0
        level = Assignment(np.arange(self.slots).reshape(ranks, width), self.slots)
        return ExpertParallel(
            Routing(inclusion, self.routing.top_k, groups, limit), level, self.gpus_per_node, self.ways
        )

    def extra_s_per_token(self, token_bytes: float, fabric: Fabric, mode: Mode) -> float:
        """Seconds that dispatch (or combine) of one token per rank takes beyond an even one: the busiest port's excess.

        Transfers are proportional to tokens, so that a step's excess is this times its tokens per rank.
        """
        own = dispatch_loads(1.0, self.visits, token_bytes, fabric, mode).transfer_s(fabric)
        level = dispatch_loads(1.0, self.even.visits, token_bytes, fabric, mode).transfer_s(fabric)
        return max(max(own) - max(level), 0.0)


def expert_parallel(
    popularity: Floats,
    top_k: int,
    placement: Placement,
    ep: int,
    gpus_per_node: int,
    ways: int = 1,
    groups: int = 1,
    group_limit: int = 0,
) -> ExpertParallel:
    """The group for popularities `[experts]`.

    Raises:
        InputError: the placement does not fill the ranks, or the routing is impossible.

    """
    routing = Routing(laws.inclusion_probabilities(popularity, top_k), top_k, groups, group_limit)
    return ExpertParallel(routing, placement.place(routing.chosen, ep), gpus_per_node, ways)
