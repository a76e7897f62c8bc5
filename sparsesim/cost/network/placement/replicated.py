from __future__ import annotations

import heapq

import numpy as np
from pydantic import Field

from sparsesim.cost.network.placement.base import Assignment, Floats, Placement, pack, table
from sparsesim.errors import InputError, Problem


class Replicated(Placement):
    """Redundant copies of the hottest experts, packed evenly (EPLB, as published with DeepSeek-V3).

    Every redundant slot goes to the expert whose copies carry the most each.
    """

    redundant: int = Field(ge=0, description="slots beyond one per expert; experts + redundant fill the ranks")

    def slots(self, experts: int, ranks: int) -> int:
        """One per expert and the redundant ones."""
        del ranks
        return experts + self.redundant

    def place(self, load: Floats, ranks: int) -> Assignment:
        """Replicate, then pack."""
        slots = len(load) + self.redundant
        if slots % ranks:
            near = sorted({-len(load) % ranks + extra * ranks for extra in range(3)})
            hint = f"redundant: {', '.join(map(str, near))}, ..."
            why = f"{len(load)} experts + {self.redundant} do not divide among {ranks} ranks"
            raise InputError(Problem(why, "deployment.placement", hint=hint))
        expert = np.repeat(np.arange(len(load)), self._copies(load))
        per_copy = (load / np.bincount(expert, minlength=len(load)))[expert]
        held = pack(per_copy, ranks, slots // ranks)
        return Assignment(expert[table(held, slots // ranks)], len(load))

    def _copies(self, load: Floats) -> list[int]:
        copies = [1] * len(load)
        heap = [(-float(value), expert) for expert, value in enumerate(load)]
        heapq.heapify(heap)
        for _ in range(self.redundant):
            _, expert = heapq.heappop(heap)
            copies[expert] += 1
            heapq.heappush(heap, (-float(load[expert]) / copies[expert], expert))
        return copies
