from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity
from sparsesim.units import Tokens

_POINTS = 256


class PositionDecay(Sparsity):
    """Activity falls along the sequence: at position p proportional to floor + (1 - floor) e^(-p / decay).

    The mean over a sequence of `sequence` tokens is `density` (arXiv 2603.23198: nnz falls steeply with position).
    """

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons over a sequence")
    decay: Tokens = Field(gt=0.0, description="tokens over which the excess falls to 1/e")
    floor: float = Field(0.5, gt=0.0, le=1.0, description="activity far along the sequence over that at its start")
    sequence: Tokens = Field(2048.0, gt=0.0, description="tokens the mean is taken over")

    def at(self, position: float) -> float:
        """Mean share of active neurons at a position, from 0."""
        length, decay = self.sequence, self.decay
        mean = self.floor + (1.0 - self.floor) * decay / length * -math.expm1(-length / decay)
        return min(self.density * (self.floor + (1.0 - self.floor) * math.exp(-position / decay)) / mean, 1.0)

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The sequence's mean, and as the spread of tokens that of the logarithm over positions."""
        del index, layers
        return LayerSparsity(self.density, row_sigma=self._spread)

    @cached_property
    def _spread(self) -> float:
        middles = (np.arange(_POINTS) + 0.5) * self.sequence / _POINTS
        return float(np.std([math.log(self.at(p) or 1.0) for p in middles]))
