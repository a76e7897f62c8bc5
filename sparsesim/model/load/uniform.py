from __future__ import annotations

from typing import ClassVar

import numpy as np

from sparsesim import laws
from sparsesim.model.load.base import ExpertLoad, Floats


class Uniform(ExpertLoad):
    """Every expert alike."""

    exchangeable: ClassVar[bool] = True

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The same for all."""
        del rng
        return laws.uniform_popularity(experts)
