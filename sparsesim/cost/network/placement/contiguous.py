from __future__ import annotations

import numpy as np

from sparsesim.cost.network.placement.base import Assignment, Floats, Placement
from sparsesim.errors import InputError, Problem


class Contiguous(Placement):
    """Rank r holds experts r E/R to (r+1) E/R - 1: what engines do when told nothing."""

    def place(self, load: Floats, ranks: int) -> Assignment:
        """In order; the ranks must divide the experts."""
        if len(load) % ranks:
            hint = "placement {kind: balanced}, or {kind: replicated, redundant: ...}"
            why = f"{len(load)} experts do not divide among {ranks} ranks"
            raise InputError(Problem(why, "deployment.placement", hint=hint))
        return Assignment(np.arange(len(load)).reshape(ranks, -1), len(load))
