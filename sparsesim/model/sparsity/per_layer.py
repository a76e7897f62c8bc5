from __future__ import annotations

import math
from functools import cache

from pydantic import Field

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity

_ROUNDS = 60


class PerLayer(Sparsity):
    """A hump over depth: the first layers least active, the most active at `peak` of the depth.

    Layer i of L stands at x = (i + 1/2) / L; its density goes with floor + (1 - floor) (x/p e^(1 - x/p))^sharp, 1 at
    the peak p, scaled so that the layers' mean is `density` (arXiv 2603.23198: the hump peaks near 20 % of the depth,
    the first two layers are least active; floor and sharpness are assumed).
    """

    density: float = Field(ge=0.0, le=1.0, description="mean share of active neurons over the layers")
    peak: float = Field(0.2, gt=0.0, le=1.0, description="depth of the most active layer")
    floor: float = Field(0.1, ge=0.0, le=1.0, description="least activity over the peak's")
    sharp: float = Field(1.0, gt=0.0, description="1: falls off over about a peak's depth; more: narrower")

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """The hump at this layer."""
        return LayerSparsity(_densities(self.density, self.peak, self.floor, self.sharp, layers)[index])


@cache
def _densities(mean: float, peak: float, floor: float, sharp: float, layers: int) -> tuple[float, ...]:
    """Of all layers: the hump scaled to the mean, by bisection where some layers reach 1."""
    depths = [(i + 0.5) / layers / peak for i in range(layers)]
    hump = [floor + (1.0 - floor) * (x * math.exp(1.0 - x)) ** sharp for x in depths]
    low, high = 0.0, layers / min(hump)
    for _ in range(_ROUNDS):
        scale = (low + high) / 2.0
        reached = sum(min(scale * h, 1.0) for h in hump) / layers
        low, high = (scale, high) if reached < mean else (low, scale)
    return tuple(min(high * h, 1.0) for h in hump)
