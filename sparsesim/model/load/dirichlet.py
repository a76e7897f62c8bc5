from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.model.load.base import ExpertLoad, Floats


class Dirichlet(ExpertLoad):
    """A draw of a symmetric Dirichlet for every layer: the smaller the concentration, the more uneven."""

    exchangeable: ClassVar[bool] = True

    concentration: float = Field(1.0, gt=0.0, description="large: uniform; below 1: few experts carry most")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """A draw of its own."""
        return laws.dirichlet_popularity(experts, self.concentration, rng)
