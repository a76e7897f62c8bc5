from __future__ import annotations

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class Correlated(Sparsity):
    """Neurons keep their state along the sequence: the union of a block of tokens is smaller, reuse higher."""

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons")
    correlation: float = Field(
        ge=0.0, le=1.0, description="chance to keep the state beyond coincidence, token to token"
    )

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The same for all layers."""
        del index, layers
        return LayerSparsity(self.density, correlation=self.correlation)
