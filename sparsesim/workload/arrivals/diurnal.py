"""A rate that swings with the hours of the day."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Duration, Instant, Rate, Spread, gamma
from sparsesim.workload.requests import Floats

HALVINGS = 60
"""Halvings of a bracket at most one period wide: the instants are exact to the last bits."""


class Diurnal(Renewal):
    """Gaps with spread `cv` at `rate * (1 + swing * cos(2*pi*(t - peak)/period))`; `rate` is the mean."""

    rate: Rate
    swing: Annotated[float, Field(ge=0, le=1)]
    period: Duration = 86400.0
    peak: Instant = 0.0
    cv: Spread = 1.0

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """Gamma, mean 1."""
        return gamma(rng, 1.0, self.cv, count)

    def expected(self, instants: Floats) -> Floats:
        """Expected arrivals since 0 s: the integral of the rate."""
        turn = 2.0 * math.pi / self.period
        swing = self.swing / turn * (np.sin(turn * (instants - self.peak)) + math.sin(turn * self.peak))
        return np.asarray(self.rate * (instants + swing))

    def instants(self, expected: Floats) -> Floats:
        """Invert `expected` by bisection: its swing is at most swing*period/pi, which brackets the root."""
        width = self.swing * self.period / math.pi
        low = np.maximum(expected / self.rate - width, 0.0)
        high = expected / self.rate + width
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            below = self.expected(middle) < expected
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(high)
