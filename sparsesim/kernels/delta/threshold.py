# mypy: disable-error-code="no-untyped-def"
"""Threshold sparsification for several projections at once: values, survivors' places, and their number.

A program owns one block of one token and projection. It counts the survivors of all earlier blocks itself
(x is a few kilobytes in the L2), so places need neither a second launch nor atomics, and the same input gives
the same order on every run.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.delta.config import THRESHOLD_TILE, ThresholdTile

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Survivors:
    """Non-zero values of every projection and token, packed to the front in ascending order of place.

    value `[projections, tokens, d]` in x's dtype and place, same shape, int32: only the first
    `count[projection, token]` entries are written; count int32.
    """

    value: torch.Tensor
    place: torch.Tensor
    count: torch.Tensor


@triton.jit
def shrink(x, delta, dtype: tl.constexpr):
    """sign(x) relu(|x| - delta) in fp32, rounded to dtype."""
    magnitude = tl.maximum(tl.abs(x) - delta, 0.0)
    return tl.where(x < 0.0, -magnitude, magnitude).to(dtype)


@triton.jit
def threshold_kernel(x_ptr, delta_ptr, value_ptr, place_ptr, count_ptr, tokens, d, BLOCK_D: tl.constexpr):
    """Grid (blocks of d, tokens, projections)."""
    block, token, projection = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dtype = x_ptr.dtype.element_ty
    delta = tl.load(delta_ptr + projection).to(tl.float32)
    i = tl.arange(0, BLOCK_D)
    before = tl.zeros((BLOCK_D,), dtype=tl.int32)
    for start in range(0, block * BLOCK_D, BLOCK_D):
        earlier = tl.load(x_ptr + token * d + start + i).to(tl.float32)
        before += (shrink(earlier, delta, dtype) != 0.0).to(tl.int32)
    place = block * BLOCK_D + i
    value = shrink(tl.load(x_ptr + token * d + place, mask=place < d, other=0.0).to(tl.float32), delta, dtype)
    kept = (value != 0.0).to(tl.int32)
    base = tl.sum(before, 0)
    slot = base + tl.cumsum(kept, 0) - 1
    lane = projection * tokens + token
    tl.store(value_ptr + lane.to(tl.int64) * d + slot, value, mask=kept > 0)
    tl.store(place_ptr + lane.to(tl.int64) * d + slot, place, mask=kept > 0)
    if block == tl.num_programs(0) - 1:
        tl.store(count_ptr + lane, base + tl.sum(kept, 0))


def threshold(
    x: torch.Tensor, delta: torch.Tensor, *, tile: ThresholdTile = THRESHOLD_TILE, out: Survivors | None = None
) -> Survivors:
    """Threshold x `[tokens, d]` by delta `[projections]` (fp32, not negative) and pack what survives.

    Raises KernelRequirementError where no GPU is there or a shape does not fit.
    """
    require_gpu("threshold")
    require_tensor("threshold", "x", x, (None, None), _DTYPES)
    require_tensor("threshold", "delta", delta, (None,), (torch.float32,))
    (tokens, d), projections = x.shape, delta.shape[0]
    if out is None:
        out = Survivors(
            value=torch.empty((projections, tokens, d), dtype=x.dtype, device=x.device),
            place=torch.empty((projections, tokens, d), dtype=torch.int32, device=x.device),
            count=torch.empty((projections, tokens), dtype=torch.int32, device=x.device),
        )
    threshold_kernel[(triton.cdiv(d, tile.block_d), tokens, projections)](
        x, delta, out.value, out.place, out.count, tokens, d, BLOCK_D=tile.block_d, num_warps=tile.num_warps
    )
    return out
