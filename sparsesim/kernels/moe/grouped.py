# mypy: disable-error-code="no-untyped-def"
"""Grouped GEMM over real per-expert row counts, in Triton.

Rows are sorted by expert; expert e owns rows offsets[e]:offsets[e+1] of the output. No list of tiles is
built anywhere: every program loads the experts' offsets, counts `ceil(rows / block_m)` tiles per expert, and
finds its own tile by a prefix sum, so the grid depends only on bounds known on the host (no
synchronisation, CUDA-graph safe) and programs beyond the last tile return at once.

Weights come through the tensor memory accelerator (a descriptor over `[experts * n, k]`); rows come through it
too when they are already sorted, or by index (`row_token`) when the gather is fused. With `swap` the weights
are the left operand, so that few rows still fill the tensor core's 64-row operand with weights.

With OVERLAP (Hopper's programmatic dependent launch) programs start while the kernel before still runs, find
their tile, and wait for its results only then. Meanwhile the first of them ask for the beginning of their weights,
so that memory does not idle between launches: the down projection for its own tile, which it knows from the
offsets; the gate and up projection, before the routing is known, as if every expert had been hit (the guess
costs nothing but idle bandwidth).
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsesim.kernels.moe import hopper
from sparsesim.kernels.moe.config import GroupedTile


@triton.jit
def _find_tile(offsets_ptr, tile_m, experts, BLOCK_M: tl.constexpr, EXPERTS_PAD: tl.constexpr):
    """Expert, first row and end row of row tile `tile_m`; the number of row tiles comes last."""
    e = tl.arange(0, EXPERTS_PAD)
    start = tl.load(offsets_ptr + e, mask=e < experts, other=0)
    stop = tl.load(offsets_ptr + 1 + e, mask=e < experts, other=0)
    tiles = (stop - start + BLOCK_M - 1) // BLOCK_M
    through = tl.cumsum(tiles, 0)
    expert = tl.sum((through <= tile_m).to(tl.int32), 0)
    mine = e == expert
    first = tl.sum(tl.where(mine, start + (tile_m - (through - tiles)) * BLOCK_M, 0), 0)
    end = tl.sum(tl.where(mine, stop, 0), 0)
    return expert, first, end


@triton.jit
def _count_tiles(offsets_ptr, experts, BLOCK_M: tl.constexpr, EXPERTS_PAD: tl.constexpr):
    e = tl.arange(0, EXPERTS_PAD)
    start = tl.load(offsets_ptr + e, mask=e < experts, other=0)
    stop = tl.load(offsets_ptr + 1 + e, mask=e < experts, other=0)
    return tl.sum((stop - start + BLOCK_M - 1) // BLOCK_M, 0)


@triton.jit
def _load_rows(x_ptr, x_desc, source, row_mask, first, k0, K, x_stride, BLOCK_K: tl.constexpr, GATHER: tl.constexpr):
    if GATHER:
        k = k0 + tl.arange(0, BLOCK_K)
        pointers = x_ptr + source[:, None] * x_stride + k[None, :]
        rows = tl.load(pointers, mask=row_mask[:, None] & (k < K)[None, :], other=0.0)
    else:
        rows = x_desc.load([first, k0])
    return rows


@triton.jit
def _one_tile(
    x_ptr, x_desc, w_ptr, w_desc, out_ptr, offsets_ptr, row_token_ptr,
    tile_m, tile_n, experts, N, K, x_stride,
    GATED: tl.constexpr, GATHER: tl.constexpr, SWAP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EXPERTS_PAD: tl.constexpr,
    OVERLAP: tl.constexpr, PREFETCH_BYTES: tl.constexpr, PREFETCH_PROGRAMS: tl.constexpr,
):  # fmt: skip
    """One `[BLOCK_M, BLOCK_N]` tile of the output; with GATED the gate and the up product and their activation."""
    expert, first, end = _find_tile(offsets_ptr, tile_m, experts, BLOCK_M, EXPERTS_PAD)
    if OVERLAP and not GATHER:
        if PREFETCH_BYTES > 0 and tl.program_id(0) < PREFETCH_PROGRAMS:
            _prefetch(w_ptr, expert * N + tile_n * BLOCK_N, N, K, False, BLOCK_N, PREFETCH_BYTES)
        gdc_wait()
        gdc_launch_dependents()
    row = first + tl.arange(0, BLOCK_M)
    row_mask = row < end
    source = row
    if GATHER:
        source = tl.load(row_token_ptr + row, mask=row_mask, other=0)
    n0 = tile_n * BLOCK_N
    w_row = expert * N * (2 if GATED else 1) + n0
    if SWAP:
        acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
        acc_up = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        acc_up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k0 in range(0, K, BLOCK_K):
        rows = _load_rows(x_ptr, x_desc, source, row_mask, first, k0, K, x_stride, BLOCK_K, GATHER)
        w = w_desc.load([w_row, k0])
        acc = tl.dot(w, rows.T, acc) if SWAP else tl.dot(rows, w.T, acc)
        if GATED:
            w_up = w_desc.load([w_row + N, k0])
            acc_up = tl.dot(w_up, rows.T, acc_up) if SWAP else tl.dot(rows, w_up.T, acc_up)
    if GATED:
        acc = acc * tl.sigmoid(acc) * acc_up
    if SWAP:
        acc = tl.trans(acc)
    n = n0 + tl.arange(0, BLOCK_N)
    out = out_ptr + row.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=row_mask[:, None] & (n < N)[None, :])


@triton.jit
def _prefetch(w_ptr, w_row, N, K, GATED: tl.constexpr, BLOCK_N: tl.constexpr, ROW_BYTES: tl.constexpr):
    """Ask for the first ROW_BYTES of every weight row of a tile, into the L2; 128 lanes, one request each."""
    ROWS: tl.constexpr = BLOCK_N * (2 if GATED else 1)
    PARTS: tl.constexpr = max(1, 128 // ROWS)
    lane = tl.arange(0, ROWS * PARTS)
    r = lane % ROWS
    row = w_row + tl.where(r < BLOCK_N, r, N + r - BLOCK_N)
    part_bytes = ROW_BYTES // PARTS
    address = (w_ptr + row.to(tl.int64) * K).to(tl.int64) + (lane // ROWS) * part_bytes
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r", [address, part_bytes], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _swizzle(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Row tiles fastest inside groups of GROUP_M, so that a group's rows stay in the L2 while weights stream."""
    group = pid // (GROUP_M * tiles_n)
    in_group = pid % (GROUP_M * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + in_group % height, in_group // height


@triton.jit
def grouped_gemm_kernel(
    x_ptr, x_desc, w_ptr, w_desc, out_ptr, offsets_ptr, row_token_ptr,
    experts, N, K, x_stride,
    GATED: tl.constexpr, GATHER: tl.constexpr, SWAP: tl.constexpr, PERSISTENT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EXPERTS_PAD: tl.constexpr, OVERLAP: tl.constexpr,
    PREFETCH_BYTES: tl.constexpr, PREFETCH_PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Program p computes tile p, or with PERSISTENT tiles p, p + programs, ...

    With OVERLAP the offsets must come from a kernel that the one before has waited for, or, with GATHER, from
    the one before itself: only a kernel that gathers waits before it reads them.
    """
    if OVERLAP and GATHER:
        if PREFETCH_BYTES > 0 and tl.program_id(0) < PREFETCH_PROGRAMS:
            guess = tl.program_id(0) // tl.cdiv(N, BLOCK_N)
            if guess < experts:
                w_row = guess * N * (2 if GATED else 1) + tl.program_id(0) % tl.cdiv(N, BLOCK_N) * BLOCK_N
                _prefetch(w_ptr, w_row, N, K, GATED, BLOCK_N, PREFETCH_BYTES)
        gdc_wait()
        gdc_launch_dependents()
    tiles_m = _count_tiles(offsets_ptr, experts, BLOCK_M, EXPERTS_PAD)
    tiles_n = tl.cdiv(N, BLOCK_N)
    if PERSISTENT:
        for pid in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
            tile_m, tile_n = _swizzle(pid, tiles_m, tiles_n, GROUP_M)
            _one_tile(x_ptr, x_desc, w_ptr, w_desc, out_ptr, offsets_ptr, row_token_ptr, tile_m, tile_n, experts, N, K,
                      x_stride, GATED, GATHER, SWAP, BLOCK_M, BLOCK_N, BLOCK_K, EXPERTS_PAD,
                      OVERLAP, PREFETCH_BYTES, PREFETCH_PROGRAMS)  # fmt: skip
    else:
        pid = tl.program_id(0)
        if pid < tiles_m * tiles_n:
            tile_m, tile_n = _swizzle(pid, tiles_m, tiles_n, GROUP_M)
            _one_tile(x_ptr, x_desc, w_ptr, w_desc, out_ptr, offsets_ptr, row_token_ptr, tile_m, tile_n, experts, N, K,
                      x_stride, GATED, GATHER, SWAP, BLOCK_M, BLOCK_N, BLOCK_K, EXPERTS_PAD,
                      OVERLAP, PREFETCH_BYTES, PREFETCH_PROGRAMS)  # fmt: skip


def tile_bound(rows: int, experts: int, block_m: int) -> int:
    """Most row tiles that `rows` rows over `experts` experts can need: one per expert hit, and the full ones."""
    hit = min(rows, experts)
    return hit + (rows - hit) // block_m


def pdl_options(overlap: bool) -> dict[str, bool]:
    """Launch options that let a kernel start before the one ahead of it has finished."""
    return {"launch_pdl": True} if overlap else {}


def grouped_mm(
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    tile: GroupedTile,
    *,
    gated: bool = False,
    row_token: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    overlap: bool = False,
) -> torch.Tensor:
    """Multiply the rows of each expert with its weights: `[rows, n]` in x's dtype.

    x: `[rows, k]` sorted by expert, or `[tokens, k]` with row_token `[rows]` int32 naming the token of each row.
    weight: `[experts, n, k]`; with `gated` it is `[experts, 2 n, k]` and the result is silu(gate) * up.
    offsets: `[experts + 1]` int32 on the device. `overlap` is for `moe_layer`, whose kernels wait for each other;
    elsewhere an earlier kernel that computes the offsets might not have finished. Raises ValueError for shapes
    that do not fit.
    """
    rows = x.shape[0] if row_token is None else row_token.shape[0]
    experts, stacked, k = weight.shape
    n = stacked // 2 if gated else stacked
    if x.shape[1] != k or offsets.shape[0] != experts + 1:
        raise ValueError(
            f"x {tuple(x.shape)} and offsets {tuple(offsets.shape)} do not fit weight {tuple(weight.shape)}: "
            f"expected [*, {k}] and [{experts + 1}]"
        )
    if out is None:
        out = torch.empty((rows, n), dtype=x.dtype, device=x.device)
    if tile.cluster and not gated and row_token is None and hopper.takes(x, weight):
        return hopper.grouped_mm(x, weight, offsets, out, overlap)
    programs = tile_bound(rows, experts, tile.block_m) * triton.cdiv(n, tile.block_n)
    if tile.persistent:
        programs = min(programs, tile.programs)
    w_desc = TensorDescriptor.from_tensor(weight.view(experts * stacked, k), [tile.block_n, tile.block_k])
    x_desc = TensorDescriptor.from_tensor(x, [tile.block_m, tile.block_k]) if row_token is None else None
    grouped_gemm_kernel[(programs,)](
        x, x_desc, weight, w_desc, out, offsets, row_token, experts, n, k, x.stride(0),
        GATED=gated, GATHER=row_token is not None, SWAP=tile.swap, PERSISTENT=tile.persistent,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, GROUP_M=tile.group_m,
        EXPERTS_PAD=triton.next_power_of_2(experts), OVERLAP=overlap,
        PREFETCH_BYTES=min(tile.prefetch_bytes, k * weight.element_size()), PREFETCH_PROGRAMS=tile.prefetch_programs,
        num_warps=tile.num_warps, num_stages=tile.num_stages, **pdl_options(overlap),
    )  # fmt: skip
    return out
