from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sparsesim.laws import DEAD_SHARE
from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class DeadNeurons(Sparsity):
    """A share of the neurons is never active (more than 30 % at L1 2e-5, arXiv 2603.23198); the others carry all."""

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons, dead ones counted")
    dead_share: float = Field(DEAD_SHARE, ge=0.0, lt=1.0, description="share of neurons never active")

    @model_validator(mode="after")
    def _living_carry(self) -> Self:
        if self.density > 1.0 - self.dead_share:
            raise ValueError(f"density {self.density:g} is more than the living share {1 - self.dead_share:g} carries")
        return self

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The same for all layers."""
        del index, layers
        return LayerSparsity(self.density, dead_share=self.dead_share)
