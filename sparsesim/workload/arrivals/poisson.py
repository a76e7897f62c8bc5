"""Poisson arrivals: independent users, none of whom waits for another."""

from __future__ import annotations

import numpy as np

from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Rate
from sparsesim.workload.requests import Floats


class Poisson(Renewal):
    """Exponential gaps at a constant rate."""

    rate: Rate

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """Exponential, mean 1."""
        return rng.standard_exponential(count)

    def instants(self, expected: Floats) -> Floats:
        """Constant rate."""
        return expected / self.rate
