from __future__ import annotations

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats


class RotatingHotSpot(ExpertLoad):
    """`hot` neighbouring experts carry `share`; every `period` steps the spot moves on by its own width."""

    hot: int = Field(ge=1, description="experts of the spot")
    share: float = Field(ge=0.0, le=1.0, description="of the popularity that they carry")
    period: int = Field(100, ge=1, description="steps the spot stays where it is")
    cycle_spots: int = Field(16, ge=1, description="places of the spot that an average runs over")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The spot somewhere."""
        return self._at(experts, int(rng.integers(experts)))

    def popularity(self, experts: int, layer: int = 0, step: int = 0) -> Floats:
        """The spot starts somewhere in each layer and moves on."""
        start = int(np.random.default_rng((self.seed, layer)).integers(experts))
        return self._at(experts, start + step // self.period * self.hot)

    def _at(self, experts: int, first: int) -> Floats:
        if self.hot >= experts:
            raise InputError(Problem(f"a hot spot of {self.hot} of {experts} experts", hint=f"1 to {experts - 1}"))
        return laws.hot_set_popularity(experts, self.hot, self.share, first % experts)

    @property
    def cycle(self) -> int:
        """The spot's way over its places."""
        return self.period * self.cycle_spots
