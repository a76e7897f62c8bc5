# mypy: disable-error-code="no-untyped-def"
"""Sparse GEMV y = W^T s for a vector s of which most values are zero, W stored with one row per input value.

Two forms of the same product:

- `skip`: thresholds x itself, counts the survivors, and masks the loads of rows whose value is zero. A masked
  load moves nothing, so one launch does it all; but most of the loads in flight are empty.
- `gather`: reads packed survivors (`threshold`) and loads only their rows; every load in flight is full, for
  one launch more, which several projections on the same x share.

Programs that share the rows (`splits`) write fp32 partial sums; the last of a column block to finish adds
them in order, so the result is the same on every run.
"""

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.delta.config import GATHER_TILE, SKIP_TILE, GemvTile
from sparsesim.kernels.delta.threshold import Survivors, shrink

_DTYPES = (torch.bfloat16, torch.float16)


@triton.jit
def _finish(
    acc, part_ptr, counter_ptr, out_ptr, token, column, n,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """Write one program's sums; the last program of a column block adds them up and writes the result."""
    inside = column < n
    lane = (token * SPLITS + tl.program_id(1)).to(tl.int64)
    tl.store(part_ptr + lane * n + column, acc, mask=inside)
    tl.debug_barrier()
    counter = counter_ptr + token * tl.num_programs(0) + tl.program_id(0)
    if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == SPLITS - 1:
        tl.store(counter, 0)
        split = tl.arange(0, SPLITS)
        cells = (token * SPLITS + split).to(tl.int64)[:, None] * n + column[None, :]
        parts = tl.load(part_ptr + cells, mask=inside[None, :], other=0.0, cache_modifier=".cg")
        total = tl.sum(parts, axis=0)
        tl.store(out_ptr + token * n + column, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def skip_kernel(
    x_ptr, weight_ptr, part_ptr, counter_ptr, out_ptr, count_ptr, delta, d, n,
    BLOCK_N: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Grid (column blocks, SPLITS, tokens); split s takes every SPLITS-th step of rows."""
    token = tl.program_id(2)
    dtype = x_ptr.dtype.element_ty
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N,), dtype=tl.float32)
    kept = tl.zeros((STEP,), dtype=tl.int32)
    for start in range(tl.program_id(1) * STEP, d, SPLITS * STEP):
        row = start + tl.arange(0, STEP)
        x = tl.load(x_ptr + token * d + row, mask=row < d, other=0.0).to(tl.float32)
        value = shrink(x, delta, dtype)
        alive = value != 0.0
        kept += alive.to(tl.int32)
        cells = row.to(tl.int64)[:, None] * n + column[None, :]
        w = tl.load(weight_ptr + cells, mask=alive[:, None] & (column < n)[None, :], other=0.0)
        acc += tl.sum(w.to(tl.float32) * value.to(tl.float32)[:, None], axis=0)
    if tl.program_id(0) == 0:
        tl.atomic_add(count_ptr + token, tl.sum(kept, 0), sem="relaxed")
    _finish(acc, part_ptr, counter_ptr, out_ptr, token, column, n, SPLITS)


@triton.jit
def gather_kernel(
    value_ptr, place_ptr, count_ptr, weight_ptr, part_ptr, counter_ptr, out_ptr, d, n,
    BLOCK_N: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (column blocks, SPLITS, tokens); split s takes every SPLITS-th step of survivors."""
    token = tl.program_id(2)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    count = tl.load(count_ptr + token)
    acc = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in tl.range(tl.program_id(1) * STEP, count, SPLITS * STEP, num_stages=STAGES):
        slot = start + tl.arange(0, STEP)
        row = tl.load(place_ptr + token * d + slot, mask=slot < count, other=0)
        value = tl.load(value_ptr + token * d + slot, mask=slot < count, other=0.0).to(tl.float32)
        cells = row.to(tl.int64)[:, None] * n + column[None, :]
        w = tl.load(weight_ptr + cells, mask=(slot < count)[:, None] & (column < n)[None, :], other=0.0)
        acc += tl.sum(w.to(tl.float32) * value[:, None], axis=0)
    _finish(acc, part_ptr, counter_ptr, out_ptr, token, column, n, SPLITS)


class GemvScratch:
    """fp32 partial sums and arrival counters (zero between calls) of one product; reusable on one stream."""

    def __init__(self, tokens: int, n: int, tile: GemvTile, device: torch.device) -> None:
        """Allocate for `tokens` vectors and n output columns."""
        self.part = torch.empty((tokens, tile.splits, n), dtype=torch.float32, device=device)
        self.counter = torch.zeros(tokens * triton.cdiv(n, tile.block_n), dtype=torch.int32, device=device)


def _check(kernel: str, tokens: int, d: int, weight: torch.Tensor) -> tuple[int, int]:
    require_gpu(kernel)
    require_tensor(kernel, "weight", weight, (d, None), _DTYPES)
    return tokens, int(weight.shape[1])


def skip_gemv(
    x: torch.Tensor,
    weight: torch.Tensor,
    delta: float,
    *,
    tile: GemvTile = SKIP_TILE,
    scratch: GemvScratch | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Threshold x `[tokens, d]` by delta and multiply weight `[d, n]`: (`[tokens, n]`, survivors `[tokens]` int32)."""
    require_tensor("skip_gemv", "x", x, (None, None), _DTYPES)
    tokens, n = _check("skip_gemv", x.shape[0], x.shape[1], weight)
    scratch = GemvScratch(tokens, n, tile, x.device) if scratch is None else scratch
    out = torch.empty((tokens, n), dtype=x.dtype, device=x.device)
    count = torch.zeros(tokens, dtype=torch.int32, device=x.device)
    skip_kernel[(triton.cdiv(n, tile.block_n), tile.splits, tokens)](
        x, weight, scratch.part, scratch.counter, out, count, delta, x.shape[1], n,
        BLOCK_N=tile.block_n, STEP=tile.step, SPLITS=tile.splits, num_warps=tile.num_warps,
    )  # fmt: skip
    return out, count


def gather_gemv(
    survivors: Survivors,
    projection: int,
    weight: torch.Tensor,
    *,
    tile: GemvTile = GATHER_TILE,
    scratch: GemvScratch | None = None,
) -> torch.Tensor:
    """Multiply weight `[d, n]` with the packed survivors of one projection: `[tokens, n]`."""
    value, place, count = (t[projection] for t in (survivors.value, survivors.place, survivors.count))
    tokens, n = _check("gather_gemv", value.shape[0], value.shape[1], weight)
    scratch = GemvScratch(tokens, n, tile, value.device) if scratch is None else scratch
    out = torch.empty((tokens, n), dtype=value.dtype, device=value.device)
    gather_kernel[(triton.cdiv(n, tile.block_n), tile.splits, tokens)](
        value, place, count, weight, scratch.part, scratch.counter, out, value.shape[1], n,
        BLOCK_N=tile.block_n, STEP=tile.step, SPLITS=tile.splits, STAGES=3, num_warps=tile.num_warps,
    )  # fmt: skip
    return out
