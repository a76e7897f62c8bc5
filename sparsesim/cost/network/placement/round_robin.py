from __future__ import annotations

import numpy as np

from sparsesim.cost.network.placement.base import Assignment, Floats, Placement, table
from sparsesim.errors import InputError, Problem


class RoundRobin(Placement):
    """Expert e on rank e mod R; some ranks hold one more where the ranks do not divide the experts."""

    def place(self, load: Floats, ranks: int) -> Assignment:
        """Dealt out in order; every rank needs an expert."""
        if len(load) < ranks:
            why = f"{len(load)} experts leave some of {ranks} ranks empty"
            raise InputError(Problem(why, "deployment.placement", hint="kind: replicated"))
        held = [np.arange(rank, len(load), ranks).tolist() for rank in range(ranks)]
        return Assignment(table(held, -(-len(load) // ranks)), len(load))
