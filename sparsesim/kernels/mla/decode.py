# mypy: disable-error-code="no-untyped-def"
"""Absorbed MLA decode attention in Triton, split over the cached tokens, then combined.

Every cache row serves all heads as key (latent and rotary part) and as value (latent part), so a program reads
it once for `block_h` heads and both products. Splits write their own softmax's outputs with its
log2-sum-exp; the combine weighs them. The number of splits balances whole waves of the GPU against the partial
outputs that each split adds.
"""

import importlib.util
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsesim.kernels.common.requirements import interpreting, require_gpu, require_multiple, require_tensor
from sparsesim.kernels.mla.config import (
    FEW_HEADS,
    FEW_HEADS_COSTS,
    MANY_HEADS,
    MANY_HEADS_COSTS,
    MlaTile,
    SplitCosts,
)

_DTYPES = (torch.bfloat16, torch.float16)
_LOG2_E = math.log2(math.e)


@triton.jit
def mla_kernel(
    query_ptr, latent_desc, rope_desc, lengths_ptr, part_ptr, lse_ptr,
    heads, splits, scale,
    LATENT: tl.constexpr, ROPE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_T: tl.constexpr, SWAP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (head blocks, splits, batch): the head blocks of one split run together and share its rows in the L2."""
    split, batch = tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + batch)
    blocks = tl.cdiv(length, BLOCK_T)
    first = (blocks * split // splits) * BLOCK_T
    last = (blocks * (split + 1) // splits) * BLOCK_T
    h = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    h_in = h < heads
    column = tl.arange(0, LATENT)
    query = query_ptr + (batch * heads + h)[:, None] * (LATENT + ROPE)
    q_latent = tl.load(query + column[None, :], mask=h_in[:, None], other=0.0)
    q_rope = tl.load(query + LATENT + tl.arange(0, ROPE)[None, :], mask=h_in[:, None], other=0.0)
    high = tl.full((BLOCK_H,), -1e30, dtype=tl.float32)
    total = tl.zeros((BLOCK_H,), dtype=tl.float32)
    acc = tl.zeros((LATENT, BLOCK_H) if SWAP else (BLOCK_H, LATENT), dtype=tl.float32)
    for start in tl.range(first, last, BLOCK_T, num_stages=STAGES):
        latent = latent_desc.load([batch, start, 0]).reshape(BLOCK_T, LATENT)
        rope = rope_desc.load([batch, start, LATENT]).reshape(BLOCK_T, ROPE)
        inside = start + tl.arange(0, BLOCK_T) < length
        if SWAP:
            s = tl.dot(latent, q_latent.T)
            s = tl.dot(rope, q_rope.T, s) * scale
            s = tl.where(inside[:, None], s, float("-inf"))
            new = tl.maximum(high, tl.max(s, axis=0))
            p = tl.exp2(s - new[None, :])
            shrink = tl.exp2(high - new)
            total = total * shrink + tl.sum(p, axis=0)
            acc = tl.dot(latent.T, p.to(latent.dtype), acc * shrink[None, :])
        else:
            s = tl.dot(q_latent, latent.T)
            s = tl.dot(q_rope, rope.T, s) * scale
            s = tl.where(inside[None, :], s, float("-inf"))
            new = tl.maximum(high, tl.max(s, axis=1))
            p = tl.exp2(s - new[:, None])
            shrink = tl.exp2(high - new)
            total = total * shrink + tl.sum(p, axis=1)
            acc = tl.dot(p.to(latent.dtype), latent, acc * shrink[:, None])
        high = new
    divisor = tl.where(total > 0.0, total, 1.0)
    acc = tl.trans(acc / divisor[None, :]) if SWAP else acc / divisor[:, None]
    lane = (batch * splits + split) * heads + h
    tl.store(part_ptr + lane.to(tl.int64)[:, None] * LATENT + column[None, :], acc, mask=h_in[:, None])
    tl.store(lse_ptr + lane, tl.where(total > 0.0, high + tl.log2(divisor), float("-inf")), mask=h_in)


@triton.jit
def combine_kernel(part_ptr, lse_ptr, out_ptr, heads, splits, LATENT: tl.constexpr, SPLITS_PAD: tl.constexpr):
    """Grid (heads, batch): sum of the splits' outputs weighed by 2^lse over their sum."""
    head, batch = tl.program_id(0), tl.program_id(1)
    s = tl.arange(0, SPLITS_PAD)
    lane = (batch * splits + s) * heads + head
    lse = tl.load(lse_ptr + lane, mask=s < splits, other=float("-inf"))
    high = tl.maximum(tl.max(lse, axis=0), -1e30)
    weight = tl.exp2(lse - high)
    total = tl.sum(weight, axis=0)
    weight = weight / tl.where(total > 0.0, total, 1.0)
    column = tl.arange(0, LATENT)
    part = tl.load(
        part_ptr + lane.to(tl.int64)[:, None] * LATENT + column[None, :], mask=(s < splits)[:, None], other=0.0
    )
    out = tl.sum(part * weight[:, None], axis=0)
    tl.store(out_ptr + (batch * heads + head) * LATENT + column, out.to(out_ptr.dtype.element_ty))


@dataclass(frozen=True)
class SplitProblem:
    """What is to be split: units (sequences times head blocks) of `tokens` cached tokens each, the whole cache's bytes,
    the bytes of one split's partial outputs out and in, and the programs that run at once.
    """

    units: int
    tokens: int
    cache_bytes: float
    partial_bytes: float
    programs: int


def split_problem(query: torch.Tensor, cache: torch.Tensor, latent: int, block_h: int, programs: int) -> SplitProblem:
    """The problem of one call of `mla_decode`."""
    batch, heads, _ = query.shape
    return SplitProblem(
        units=batch * triton.cdiv(heads, block_h),
        tokens=cache.shape[1],
        cache_bytes=float(cache.numel() * cache.element_size()),
        partial_bytes=8.0 * batch * heads * latent,
        programs=programs,
    )


def split_time_s(splits: int, problem: SplitProblem, costs: SplitCosts) -> float:
    """Estimated seconds with `splits` splits, waves = ceil(units * splits / programs):

    max(waves * tokens / splits * token_s, cache_bytes / cache_bytes_per_s) + waves * start_s
    + splits * partial_bytes / partial_bytes_per_s
    """
    waves = math.ceil(problem.units * splits / problem.programs)
    work_s = waves * problem.tokens / splits * costs.token_s
    stream_s = problem.cache_bytes / costs.cache_bytes_per_s
    partial_s = splits * problem.partial_bytes / costs.partial_bytes_per_s
    return max(work_s, stream_s) + waves * costs.start_s + partial_s


def split_count(problem: SplitProblem, block_t: int, costs: SplitCosts) -> int:
    """The number of splits with the least estimated time; a split keeps four token blocks to fill its pipeline."""
    most = max(1, min(64, problem.tokens // (4 * block_t)))
    return min(range(1, most + 1), key=lambda splits: split_time_s(splits, problem, costs))


def hopper_applies(heads: int, latent: int, rope: int) -> bool:
    """Whether the hand-placed kernel can run: more than 16 heads, the published widths, and a Hopper GPU."""
    if interpreting() or (latent, rope) != (512, 64) or heads <= FEW_HEADS.block_h:
        return False
    return (
        torch.cuda.get_device_capability() == (9, 0)
        and importlib.util.find_spec("triton.experimental.gluon") is not None
    )


def _launch_triton(
    query: torch.Tensor,
    cache: torch.Tensor,
    lengths: torch.Tensor,
    part: torch.Tensor,
    lse: torch.Tensor,
    latent: int,
    log2_scale: float,
    tile: MlaTile,
) -> None:
    (batch, heads, width), splits = query.shape, part.shape[1]
    latent_desc = TensorDescriptor.from_tensor(cache, [1, tile.block_t, latent])
    rope_desc = TensorDescriptor.from_tensor(cache, [1, tile.block_t, width - latent])
    mla_kernel[(triton.cdiv(heads, tile.block_h), splits, batch)](
        query, latent_desc, rope_desc, lengths, part, lse, heads, splits, log2_scale,
        LATENT=latent, ROPE=width - latent, BLOCK_H=tile.block_h, BLOCK_T=tile.block_t, SWAP=tile.swap,
        STAGES=tile.num_stages, num_warps=tile.num_warps,
    )  # fmt: skip


def mla_decode(
    query: torch.Tensor,
    cache: torch.Tensor,
    lengths: torch.Tensor,
    latent: int,
    scale: float,
    *,
    tile: MlaTile | None = None,
    splits: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """One decode token of absorbed MLA: `[batch, heads, latent]` in query's dtype.

    query `[batch, heads, latent + rope]` with the key's up-projection absorbed; cache
    `[batch, tokens, latent + rope]` (bf16 or fp16), latent columns first; lengths `[batch]` int32 counts the
    cached tokens of each sequence; rows past it must hold finite numbers (their weight is 0). latent and rope are
    powers of two from 16. Rarely needed: `tile` (else the Hopper kernel for many heads where it applies, and a
    measured Triton tile otherwise), `splits`. Raises KernelRequirementError where no GPU is there or a shape does
    not fit.
    """
    require_gpu("mla_decode")
    batch, heads, width = query.shape
    require_tensor("mla_decode", "query", query, (None, None, None), _DTYPES)
    require_tensor("mla_decode", "cache", cache, (batch, None, width), (query.dtype,))
    require_tensor("mla_decode", "lengths", lengths, (batch,), (torch.int32,))
    for name, value in (("latent", latent), ("rope width", width - latent)):
        require_multiple("mla_decode", name, value, max(16, triton.next_power_of_2(max(value, 1))))
    by_hand = tile is None and hopper_applies(heads, latent, width - latent)
    if tile is None:
        tile = FEW_HEADS if heads <= FEW_HEADS.block_h else MANY_HEADS
    if splits is None:
        problem = split_problem(query, cache, latent, tile.block_h, _resident_programs(query.device))
        costs = FEW_HEADS_COSTS if tile.block_h <= FEW_HEADS.block_h else MANY_HEADS_COSTS
        splits = split_count(problem, tile.block_t, costs)
    out = torch.empty((batch, heads, latent), dtype=query.dtype, device=query.device) if out is None else out
    part = torch.empty((batch, splits, heads, latent), dtype=torch.float32, device=query.device)
    lse = torch.empty((batch, splits, heads), dtype=torch.float32, device=query.device)
    if by_hand:
        from sparsesim.kernels.mla import hopper

        hopper.launch(query, cache, lengths, part, lse, latent, scale * _LOG2_E)
    else:
        _launch_triton(query, cache, lengths, part, lse, latent, scale * _LOG2_E, tile)
    combine_kernel[(heads, batch)](
        part, lse, out, heads, splits, LATENT=latent, SPLITS_PAD=triton.next_power_of_2(splits), num_warps=4
    )
    return out


def _resident_programs(device: torch.device) -> int:
    """Programs that run at once: one per multiprocessor (the token blocks fill its shared memory)."""
    return 1 if interpreting() else torch.cuda.get_device_properties(device).multi_processor_count
