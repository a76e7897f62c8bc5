from __future__ import annotations

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class Constant(Sparsity):
    """The same mean share of neurons active in every layer."""

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons")

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The same for all."""
        del index, layers
        return LayerSparsity(self.density)
