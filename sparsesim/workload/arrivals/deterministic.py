"""Equally spaced arrivals."""

from __future__ import annotations

import numpy as np

from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Rate
from sparsesim.workload.requests import Floats


class Deterministic(Renewal):
    """One request every 1/rate seconds, the first after one gap."""

    rate: Rate

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """All 1."""
        del rng
        return np.ones(count)

    def instants(self, expected: Floats) -> Floats:
        """Constant rate."""
        return expected / self.rate
