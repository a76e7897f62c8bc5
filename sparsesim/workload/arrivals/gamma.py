"""Gamma gaps: bursty arrivals (cv above 1) or regular ones (below 1)."""

from __future__ import annotations

import numpy as np

from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Rate, Spread, gamma
from sparsesim.workload.requests import Floats


class Gamma(Renewal):
    """Gamma gaps at a constant rate; `cv` 1 is Poisson, 0 deterministic."""

    rate: Rate
    cv: Spread

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """Gamma with shape 1/cv^2, mean 1."""
        return gamma(rng, 1.0, self.cv, count)

    def instants(self, expected: Floats) -> Floats:
        """Constant rate."""
        return expected / self.rate
