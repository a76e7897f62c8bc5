from __future__ import annotations

import math

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class TokenDependent(Sparsity):
    """Few neurons for predictable tokens, many for content words.

    A token has a surprise u, uniform between 0 (most predictable) and 1 (most surprising), an entropy-like variable;
    its mean activity is proportional to contrast^u, so its logarithm is uniform too, with standard deviation
    ln(contrast) / sqrt(12), and the mean over tokens is (contrast - 1) / ln(contrast) times the least.
    """

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons over tokens")
    contrast: float = Field(8.0, gt=1.0, description="activity of the most surprising token over the least")

    def at(self, surprise: float) -> float:
        """Mean share of active neurons of a token of a surprise between 0 and 1."""
        least = self.density * math.log(self.contrast) / (self.contrast - 1.0)
        return float(min(least * self.contrast**surprise, 1.0))

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The tokens' mean and the spread of their logarithm."""
        del index, layers
        return LayerSparsity(self.density, row_sigma=math.log(self.contrast) / math.sqrt(12.0))
