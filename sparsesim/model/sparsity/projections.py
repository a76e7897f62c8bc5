from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sparsesim.model.sparsity.base import Format, LayerSparsity, Sparsity

NAMES = ("i", "f", "g", "o", "up", "down", "head")


class Projections(Sparsity):
    """Thresholded inputs of single projections (delta sparsification): a density for each, the same in all layers.

    The FFN stays a chain of products whose inputs hold zeros; a GPU's dense kernel gains nothing from them.
    """

    format: Format = "gemm"
    densities: dict[str, float] = Field(
        min_length=1, description=f"density of the input by projection: {', '.join(NAMES)}"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(set(self.densities) - set(NAMES))
        if unknown:
            raise ValueError(f"unknown projections {', '.join(unknown)}; known: {', '.join(NAMES)}")
        for name, density in self.densities.items():
            if not 0.0 <= density <= 1.0:
                raise ValueError(f"{name}: density {density:g} must lie in [0, 1]")
        return self

    def __hash__(self) -> int:
        """By its densities."""
        return hash((self.format, self.pattern, tuple(sorted(self.densities.items()))))

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The same for all layers."""
        del index, layers
        return LayerSparsity(projections=tuple(sorted(self.densities.items())))

    def head_density(self) -> float:
        """Of the LM head's input."""
        return self.densities.get("head", 1.0)
