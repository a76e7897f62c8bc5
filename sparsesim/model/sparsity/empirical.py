from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from sparsesim.errors import InputError, Problem
from sparsesim.model.sparsity.base import LayerSparsity, Sparsity

_SUM_TOLERANCE = 1e-3
"""Published shares are rounded to three digits."""


class Empirical(Sparsity):
    """Measured activity: a density for every layer, or a histogram of tokens over densities."""

    by_layer: tuple[float, ...] | None = Field(None, min_length=1, description="density of each layer, in order")
    densities: tuple[float, ...] | None = Field(None, min_length=1, description="bins of the histogram")
    shares: tuple[float, ...] | None = Field(None, min_length=1, description="share of the tokens in each bin")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.by_layer is None) == (self.densities is None) or (self.densities is None) != (self.shares is None):
            raise ValueError("give by_layer, or densities with their shares")
        values = self.by_layer or self.densities or ()
        if min(values) < 0.0 or max(values) > 1.0:
            raise ValueError(f"densities must lie in [0, 1], not {list(values)}")
        if self.densities and self.shares:
            if len(self.densities) != len(self.shares):
                raise ValueError(f"{len(self.densities)} densities with {len(self.shares)} shares")
            if min(self.shares) < 0.0 or abs(sum(self.shares) - 1.0) > _SUM_TOLERANCE:
                raise ValueError(f"shares sum to {sum(self.shares):.4g}, not to 1, or one is negative")
        return self

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The layer's own density, or the histogram's mean and the spread of its logarithm.

        Raises:
            InputError: densities are given for another number of layers.

        """
        if self.by_layer is not None:
            if len(self.by_layer) != layers:
                raise InputError(Problem(f"{len(self.by_layer)} densities for {layers} layers", "by_layer"))
            return LayerSparsity(self.by_layer[index])
        pairs = list(zip(self.densities or (), self.shares or (), strict=True))
        mean = sum(d * s for d, s in pairs) / sum(s for _, s in pairs)
        active = [(math.log(d), s) for d, s in pairs if d > 0.0 and s > 0.0]
        weight = sum(s for _, s in active) or 1.0
        centre = sum(log * s for log, s in active) / weight
        return LayerSparsity(mean, row_sigma=math.sqrt(sum((log - centre) ** 2 * s for log, s in active) / weight))
