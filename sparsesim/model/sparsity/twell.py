from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity

NEURONS = 5632
"""Of the gated FFN of every model in the paper (arXiv 2603.23198)."""
POINTS: dict[str, float] = {
    "0.5b": 39,
    "1b": 34,
    "1.5b": 29,
    "2b": 24,
    "1.5b-unregularised": 911,
    "1.5b-warm-up": 108,
}
"""Mean active neurons a token of the published points: four scales at L1 2e-5, and at 1.5b the ReLU model without
regularisation and the one with its warm-up. That of 1b is not stated (between 29 and 39: 34 assumed)."""


class Twell(Sparsity):
    """A published point (regularisation, scale, nnz) of the TwELL paper; nothing between or beyond them."""

    point: Literal["0.5b", "1b", "1.5b", "2b", "1.5b-unregularised", "1.5b-warm-up"] = Field(
        description="scale and regularisation of the model"
    )

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The point's mean in every layer."""
        del index, layers
        return LayerSparsity(POINTS[self.point] / NEURONS)
