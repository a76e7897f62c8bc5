from __future__ import annotations

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats


class Burst(ExpertLoad):
    """Uniform, but for the first `duty` of every `period` steps, when `hot` experts carry `share`."""

    hot: int = Field(1, ge=1, description="experts that are hot in a burst")
    share: float = Field(ge=0.0, le=1.0, description="of the popularity that they carry in a burst")
    duty: float = Field(0.1, gt=0.0, lt=1.0, description="share of the time that is a burst")
    period: int = Field(1000, ge=1, description="steps from burst to burst")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The popularity in a burst."""
        if self.hot >= experts:
            raise InputError(Problem(f"{self.hot} hot experts of {experts}", hint=f"1 to {experts - 1}"))
        return laws.hot_set_popularity(experts, self.hot, self.share, first=int(rng.integers(experts)))

    def popularity(self, experts: int, layer: int = 0, step: int = 0) -> Floats:
        """Every burst has its own hot experts."""
        burst, inside = divmod(step, self.period)
        if inside >= self.duty * self.period:
            return laws.uniform_popularity(experts)
        return self.drawn(experts, np.random.default_rng((self.seed, layer, burst)))

    @property
    def cycle(self) -> int:
        """One burst and the calm after it."""
        return self.period
