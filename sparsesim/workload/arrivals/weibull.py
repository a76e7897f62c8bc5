"""Weibull gaps: bursts with a stretched tail (cv above 1), which ServeGen finds in many production clients."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Rate
from sparsesim.workload.requests import Floats

SHAPES = (0.1, 20.0)
"""Shapes searched: cv from 429 down to 0.062."""


class Weibull(Renewal):
    """Weibull gaps at a constant rate with coefficient of variation `cv`."""

    rate: Rate
    cv: Annotated[float, Field(ge=0.07, le=400.0)]

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """Weibull with the shape that has this cv, mean 1."""
        shape = shape_of(self.cv)
        return rng.weibull(shape, count) / math.gamma(1.0 + 1.0 / shape)

    def instants(self, expected: Floats) -> Floats:
        """Constant rate."""
        return expected / self.rate


def cv_of(shape: float) -> float:
    """Coefficient of variation: cv^2 = G(1 + 2/k) / G(1 + 1/k)^2 - 1."""
    return math.sqrt(math.expm1(math.lgamma(1.0 + 2.0 / shape) - 2.0 * math.lgamma(1.0 + 1.0 / shape)))


def shape_of(cv: float) -> float:
    """The shape k with that cv; cv falls as k grows, so bisection finds it (to the last bits, in 60
    halvings).
    """
    low, high = SHAPES
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cv_of(middle) > cv else (low, middle)
    return low
