from __future__ import annotations

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats


class HotRank(ExpertLoad):
    """The experts of one of `ranks` ranks, dealt in order, carry `share` of the popularity; 0 leaves it idle."""

    ranks: int = Field(ge=2, description="ranks the experts are dealt to in order")
    share: float = Field(ge=0.0, le=1.0, description="of the popularity on the hot rank")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The hot rank drawn at random, its experts alike."""
        if experts % self.ranks:
            raise InputError(Problem(f"{self.ranks} ranks do not divide {experts} experts", "ranks"))
        held = experts // self.ranks
        first = held * int(rng.integers(self.ranks))
        return laws.hot_set_popularity(experts, held, self.share, first)
