from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats


class HotSet(ExpertLoad):
    """`hot` experts, scattered over the ranks, carry `share` of the popularity."""

    exchangeable: ClassVar[bool] = True

    hot: int = Field(ge=1, description="hot experts")
    share: float = Field(ge=0.0, le=1.0, description="of the popularity that they carry")

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """The hot ones drawn at random."""
        if self.hot >= experts:
            raise InputError(Problem(f"{self.hot} hot experts of {experts}", hint=f"1 to {experts - 1}"))
        return np.asarray(rng.permutation(laws.hot_set_popularity(experts, self.hot, self.share)))
