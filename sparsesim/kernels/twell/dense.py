"""The dense gated-ReLU FFN, twice: three plain products, and one gate+up product with a fused activation.

Bytes: the three matrices once, x, y, and the hidden activations written and read; FLOP: ``6 M F d``. The
faster of the two is the baseline of every comparison.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import require_gpu
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights


def dense_eager(x: Any, weights: FfnWeights) -> Any:
    """Three products and two pointwise operators, each its own kernel."""
    gated = torch.relu_(x @ weights.gate.T)
    return gated.mul_(x @ weights.up.T) @ weights.down


@triton.jit
def _activation_kernel(gate_up, hidden, total, F: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    place = (index // F) * (2 * F) + index % F
    gated = tl.load(gate_up + place, mask=inside, other=0.0).to(tl.float32)
    upped = tl.load(gate_up + place + F, mask=inside, other=0.0).to(tl.float32)
    value = tl.maximum(gated, 0.0) * upped
    tl.store(hidden + index, value.to(hidden.dtype.element_ty), mask=inside)


def dense_fused(x: Any, weights: FusedWeights, out: Any = None) -> Any:
    """One gate+up product, the activation in one pass, the down product (into ``out`` where given)."""
    require_gpu("dense_fused")
    gate_up = x @ weights.gate_up.T
    rows, neurons = x.shape[0], weights.down.shape[0]
    hidden = torch.empty(rows, neurons, dtype=x.dtype, device=x.device)
    total, block = rows * neurons, 2048
    _activation_kernel[(triton.cdiv(total, block),)](gate_up, hidden, total, F=neurons, BLOCK=block)
    return torch.matmul(hidden, weights.down, out=out)
