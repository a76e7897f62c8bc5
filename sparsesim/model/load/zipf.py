from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.model.load.base import ExpertLoad, Floats


class Zipf(ExpertLoad):
    """Popularity ~ rank^-exponent, experts in random order."""

    exchangeable: ClassVar[bool] = True

    exponent: float = Field(1.0, ge=0.0, description="0: uniform")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """Ranks dealt at random."""
        return np.asarray(rng.permutation(laws.zipf_popularity(experts, self.exponent)))
