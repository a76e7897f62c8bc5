from __future__ import annotations

from sparsesim.cost.network.placement.base import Assignment, Floats, Placement, pack, table
from sparsesim.errors import InputError, Problem


class Balanced(Placement):
    """One copy of each expert, packed so that ranks carry about the same load."""

    def place(self, load: Floats, ranks: int) -> Assignment:
        """Heaviest first to the least loaded rank with a free slot; every rank needs an expert."""
        if len(load) < ranks:
            why = f"{len(load)} experts leave some of {ranks} ranks empty"
            raise InputError(Problem(why, "deployment.placement", hint="kind: replicated"))
        slots = -(-len(load) // ranks)
        return Assignment(table(pack(load, ranks, slots), slots), len(load))
