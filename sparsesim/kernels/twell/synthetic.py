"""Real inputs whose gate follows an activation law: a pattern that the gate GEMM itself produces.

Pre-activations of random tokens and weights are standard normal. Column 0 of x is a constant and column 0 of Wg holds
each neuron's threshold, so neuron ``j`` is active with its frequency ``p_j``. Column 1 of x shifts all thresholds of
a token (heavy rows); tokens correlated along the sequence come from an autoregressive chain of the other columns.
Tokens have equal norms, as after a normalisation layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from sparsesim import laws
from sparsesim.kernels.twell.weights import FfnWeights

BIAS = 4.0
"""Constant of column 0: the thresholds (up to 6) then have the size of 6/4 in bf16, exact to 0.004."""
NEVER = 9.0
"""Threshold, in standard deviations, of a neuron that is never active."""


@dataclass(frozen=True)
class SyntheticLayer:
    """Weights of one layer and the law that its gate follows for tokens from ``tokens``."""

    weights: FfnWeights
    law: laws.ActivationLaw


def synthetic_layer(law: laws.ActivationLaw, width: int, dtype: torch.dtype, device: Any, seed: int) -> SyntheticLayer:
    """Random weights ``[F, width]`` with the thresholds of ``law.frequency`` in column 0 of the gate."""
    generator = torch.Generator(device=device).manual_seed(seed)
    shape, scale = (law.neurons, width), (width - 2) ** -0.5
    gate, up, down = (torch.randn(shape, generator=generator, device=device) * scale for _ in range(3))
    normal = NormalDist()
    inside = np.clip(law.frequency, normal.cdf(-NEVER), normal.cdf(NEVER))
    thresholds = torch.tensor([normal.inv_cdf(p) if p > 0.0 else -NEVER for p in inside], device=device)
    gate[:, 0], gate[:, 1] = thresholds / BIAS, 1.0
    return SyntheticLayer(FfnWeights(*(matrix.to(dtype) for matrix in (gate, up, down))), law)


def tokens(layer: SyntheticLayer, rows: int, seed: int) -> Any:
    """``rows`` consecutive tokens, ``[rows, width]``.

    A row scale ``s`` of the law becomes a shift of ``ln(s) / z`` with ``z`` the threshold of the mean frequency
    (the slope of the normal tail), so heavy rows hold about ``s`` times the mean.
    """
    law, weights = layer.law, layer.weights
    device = weights.gate.device
    generator = torch.Generator(device=device).manual_seed(seed)
    x = torch.randn(rows, weights.width, generator=generator, device=device)
    if law.correlation > 0.0:
        fresh = math.sqrt(1.0 - law.correlation**2)
        for row in range(1, rows):
            x[row] = law.correlation * x[row - 1] + fresh * x[row]
    x = x * (weights.width**0.5 / x.norm(dim=1, keepdim=True))
    x[:, 0], x[:, 1] = BIAS, 0.0
    if law.row_sigma > 0.0:
        scale = law.row_sigma * torch.randn(rows, generator=generator, device=device) - law.row_sigma**2 / 2.0
        x[:, 1] = scale / _threshold(law)
    return x.to(weights.gate.dtype)


def _threshold(law: laws.ActivationLaw) -> float:
    """Standard deviations that a pre-activation must exceed at the mean frequency.

    Raises ValueError where half of the neurons or more are active: no shift of a token then scales its count.
    """
    mean = float(law.frequency.mean())
    if mean >= 0.5:
        raise ValueError(f"row_sigma is {law.row_sigma} at a mean frequency of {mean:.3g}: must be 0 from 0.5 on")
    return -NormalDist().inv_cdf(max(mean, 1e-6))
