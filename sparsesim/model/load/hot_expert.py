from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats


class HotExpert(ExpertLoad):
    """One expert `factor` times as popular as each of the others."""

    exchangeable: ClassVar[bool] = True

    factor: float = Field(4.0, ge=1.0, description="popularity of the hot expert over that of another")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The hot expert drawn at random."""
        if experts < 2:
            raise InputError(Problem(f"a hot expert needs others beside it, not {experts} in all"))
        share = self.factor / (self.factor + experts - 1)
        return laws.hot_set_popularity(experts, 1, share, first=int(rng.integers(experts)))
