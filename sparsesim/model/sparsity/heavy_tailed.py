from __future__ import annotations

import math

from pydantic import Field
from scipy.special import ndtri

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity


class HeavyTailed(Sparsity):
    """Tokens' own means are log-normal: among so many tokens the largest is some times the mean.

    With z the normal quantile of 1 - 1/among, the largest is e^(z sigma - sigma^2/2) times the mean, which is solved
    for sigma. arXiv 2603.23198: the largest nnz of a token is more than 10 times the layer's mean, in batches of 64
    sequences of 2048 tokens.
    """

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons")
    largest: float = Field(10.0, ge=1.0, description="largest token over the mean")
    among: int = Field(131_072, ge=100, description="tokens the largest is looked for among")

    @property
    def row_sigma(self) -> float:
        """Standard deviation of the logarithm of a token's mean; at most z, where no larger ratio can be reached."""
        z = float(ndtri(1.0 - 1.0 / self.among))
        return z - math.sqrt(max(z * z - 2.0 * math.log(self.largest), 0.0))

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The same for all layers."""
        del index, layers
        return LayerSparsity(self.density, row_sigma=self.row_sigma)
