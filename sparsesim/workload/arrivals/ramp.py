"""A rate that goes up or down in straight lines between given points: load tests, morning rises, spikes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from pydantic import Field, field_validator

from sparsesim.families import Frozen
from sparsesim.units import PerSecond
from sparsesim.workload.arrivals.base import Renewal
from sparsesim.workload.quantities import Instant, Spread, gamma
from sparsesim.workload.requests import Floats


class Point(Frozen):
    """The rate at one instant."""

    at: Instant
    rate: PerSecond = Field(ge=0)


class Ramp(Renewal):
    """Gaps with spread `cv` at a piecewise linear rate; the last rate goes on for ever and must be above 0."""

    points: tuple[Point, ...] = Field(min_length=2)
    cv: Spread = 1.0

    @field_validator("points")
    @classmethod
    def _ascending(cls, points: tuple[Point, ...]) -> tuple[Point, ...]:
        if points[0].at != 0.0 or any(b.at <= a.at for a, b in pairwise(points)):
            raise ValueError(f"instants must ascend from 0 s, not {[p.at for p in points]} s")
        if points[-1].rate == 0.0:
            raise ValueError("the last rate goes on for ever, so it must be above 0 /s")
        return points

    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """Gamma, mean 1."""
        return gamma(rng, 1.0, self.cv, count)

    def instants(self, expected: Floats) -> Floats:
        """Invert the integral of the rate: on each piece r*t + g*t^2/2 = n, solved without cancellation."""
        at = np.array([p.at for p in self.points])
        rate = np.array([p.rate for p in self.points])
        growth = np.append(np.diff(rate) / np.diff(at), 0.0)
        reached = np.concatenate(([0.0], np.cumsum(np.diff(at) * (rate[1:] + rate[:-1]) / 2)))
        piece = np.maximum(np.searchsorted(reached, expected, side="left") - 1, 0)
        left, r, g = expected - reached[piece], rate[piece], growth[piece]
        root = np.sqrt(np.maximum(r**2 + 2.0 * g * left, 0.0))
        return np.asarray(at[piece] + np.divide(2.0 * left, r + root, out=np.zeros_like(left), where=left > 0))
