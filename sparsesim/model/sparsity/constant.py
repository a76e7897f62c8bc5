from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class Constant(Sparsity):
    """The same share of neurons active in every layer."""

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons")
    pattern: Literal["zipf", "independent"] = Field("zipf", description="how often each neuron is active")

    def layer(self, index: int, layers: int) -> LayerSparsity:
        """The same for all."""
        del index, layers
        return LayerSparsity(density=self.density, format=self.format, pattern=self.pattern)
