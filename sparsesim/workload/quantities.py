"""Bounded quantities that the workload's kinds share, and positive random numbers of a given mean and
spread.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from sparsesim.families import Frozen
from sparsesim.units import PerSecond, Seconds, Tokens
from sparsesim.workload.requests import Floats

Rate = Annotated[PerSecond, Field(gt=0)]
"""Requests (or sessions) per second of the whole deployment."""
Duration = Annotated[Seconds, Field(gt=0)]
Instant = Annotated[Seconds, Field(ge=0)]
Length = Annotated[Tokens, Field(ge=1)]
"""Tokens of a prompt or an output: at least one."""
Spread = Annotated[float, Field(ge=0)]
"""Coefficient of variation: standard deviation over mean."""


class Think(Frozen):
    """A user's pause between an answer and the next question: gamma with this mean and spread (cv 1:
    exponential).
    """

    mean: Instant
    cv: Spread = 1.0

    def sample(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` pauses in seconds."""
        return gamma(rng, self.mean, self.cv, count)


def gamma(rng: np.random.Generator, mean: float, cv: float, count: int) -> Floats:
    """Gamma numbers with shape 1/cv^2 and scale mean*cv^2; all equal to the mean where cv is 0."""
    if cv == 0.0 or mean == 0.0:
        return np.full(count, mean)
    return rng.gamma(1.0 / cv**2, mean * cv**2, count)
