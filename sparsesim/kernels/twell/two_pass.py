"""Up+down over TwELL words in two passes: all rows of Wu first, then all rows of Wd.

One pass alone draws on half the weights, which then keep to the L2: at M 16384, independent, nnz 29 the two read
0.21 GB from memory where one pass over both reads 1.13. The first leaves hidden values in the place of gate values in
each row's scratch, rounded to bf16 as a dense layer's hidden matrix is; the second adds their rows of Wd.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.twell.compact import compact_twell
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.launch import GatherLaunch
from sparsesim.kernels.twell.weights import FfnWeights


@triton.jit
def up_kernel(
    x,
    up,
    words,
    scratch,
    counts,
    list_count,
    list_rows,
    capacity,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    WORDS: tl.constexpr,
    TILES: tl.constexpr,
    TILES_P2: tl.constexpr,
    STEP: tl.constexpr,
):
    """One program a token: ``scratch`` row ``(column, g (x . Wu_j))``, its length in ``counts``, -1 on the worklist."""
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    entries = scratch + row * capacity
    total, fits = compact_twell(words + row * TILES * WORDS, entries, WORDS, TILES, TILES_P2, capacity)
    tl.debug_barrier()
    tl.store(counts + row, tl.where(fits, total, -1))
    if fits:
        column = tl.arange(0, D_P2)
        inside = column < D
        token = tl.load(x + row * D + column, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        lane = tl.arange(0, STEP)
        for begin in range(0, total, STEP):
            held = begin + lane < total
            word = tl.load(entries + begin + lane, mask=held, other=0)
            offset = (word & 0xFFFF).to(tl.int64)[:, None] * D + column[None, :]
            rows = tl.load(up + offset, mask=held[:, None] & inside[None, :], other=0.0)
            hidden = (word & -65536).to(tl.float32, bitcast=True) * tl.sum(rows.to(tl.float32) * token[None, :], axis=1)
            bits = hidden.to(tl.bfloat16).to(tl.float32).to(tl.int32, bitcast=True)
            tl.debug_barrier()  # every warp has read the entries that are written over
            tl.store(entries + begin + lane, bits | (word & 0xFFFF), mask=held)
    else:
        tl.store(list_rows + tl.atomic_add(list_count, 1), row.to(tl.int32))


@triton.jit
def down_kernel(
    down,
    out,
    scratch,
    counts,
    capacity,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    STEP: tl.constexpr,
    ADD: tl.constexpr,
):
    """One program a token: ``out (+)= sum over entries of hidden Wd_j``, rows on the worklist untouched."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(counts + row)
    if total >= 0:
        column = tl.arange(0, D_P2)
        inside = column < D
        acc = tl.zeros((D_P2,), dtype=tl.float32)
        if ADD:
            acc += tl.load(out + row * D + column, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        lane = tl.arange(0, STEP)
        for begin in range(0, total, STEP):
            held = begin + lane < total
            word = tl.load(scratch + row * capacity + begin + lane, mask=held, other=0)
            offset = (word & 0xFFFF).to(tl.int64)[:, None] * D + column[None, :]
            rows = tl.load(down + offset, mask=held[:, None] & inside[None, :], other=0.0)
            acc += tl.sum((word & -65536).to(tl.float32, bitcast=True)[:, None] * rows.to(tl.float32), axis=0)
        tl.store(out + row * D + column, acc.to(out.dtype.element_ty), mask=inside, eviction_policy="evict_first")


def up_then_down(
    x: Any,
    words: Any,
    weights: FfnWeights,
    form: TwellFormat,
    launch: GatherLaunch,
    lists: tuple[Any, Any, Any],
    out: Any,
    accumulate: bool,
) -> None:
    """Fill, or add to, ``out [M, d]`` for every row that fits; arguments checked by ``gather.up_down``.

    ``lists``: scratch ``[M, capacity]``, the worklist's count and its rows, int32.
    """
    (rows, width), (scratch, list_count, list_rows) = x.shape, lists
    counts = torch.empty(rows, dtype=torch.int32, device=x.device)
    capacity, tiles = scratch.shape[1], words.shape[1] // form.words
    sizes = {"D": width, "D_P2": triton.next_power_of_2(width)}
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "STEP": launch.two_pass_step}
    up_kernel[(rows,)](
        x,
        weights.up,
        words,
        scratch,
        counts,
        list_count,
        list_rows,
        capacity,
        WORDS=form.words,
        TILES=tiles,
        TILES_P2=triton.next_power_of_2(tiles),
        **sizes,
        **options,
    )
    down_kernel[(rows,)](weights.down, out, scratch, counts, capacity, ADD=accumulate, **sizes, **options)
