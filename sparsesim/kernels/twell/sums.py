"""Sums over the non-zeros of a gated activation in CSR, for training: by row (token) and by column (neuron)."""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.twell.format import TwellFormat

STEP = 2
WARPS = 4
COLUMN_STEP = 4
COLUMN_WARPS = 8


@triton.jit
def _counts_kernel(words, counts, heavy, CAPACITY, TILES: tl.constexpr, TILES_P2: tl.constexpr, WORDS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES_P2)
    held = tl.load(words + (row * TILES + tile) * WORDS, mask=tile < TILES, other=0)
    total = tl.sum(held, axis=0)
    too_many = (tl.max(held, axis=0) > WORDS - 1).to(tl.int32) + (total > CAPACITY).to(tl.int32)
    tl.store(heavy + row, tl.minimum(too_many, 1))
    tl.store(counts + row, total * (1 - tl.minimum(too_many, 1)))


@triton.jit
def _fill_kernel(
    words, counts, starts, entries, tokens, TILES: tl.constexpr, TILES_P2: tl.constexpr, WORDS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES_P2)
    sparse = (tl.load(counts + row) > 0).to(tl.int32)
    held = tl.load(words + (row * TILES + tile) * WORDS, mask=tile < TILES, other=0) * sparse
    first = tl.load(starts + row) + tl.cumsum(held, axis=0) - held
    slot = tl.arange(0, WORDS)
    inside = (slot[None, :] > 0) & (slot[None, :] <= held[:, None])
    word = tl.load(words + (row * TILES + tile[:, None]) * WORDS + slot[None, :], mask=inside, other=0)
    place = first[:, None] + slot[None, :] - 1
    tl.store(entries + place, word, mask=inside)
    tl.store(tokens + place, row.to(tl.int32) + tl.zeros_like(word), mask=inside)


@triton.jit
def _forward_kernel(
    x, up, down, starts, entries, projected, out, D: tl.constexpr, D_P2: tl.constexpr, STEP: tl.constexpr
):
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    column = tl.arange(0, D_P2)
    inside = column < D
    token = tl.load(x + row * D + column, mask=inside, other=0.0).to(tl.float32)
    acc = tl.load(out + row * D + column, mask=inside, other=0.0).to(tl.float32)
    last = tl.load(starts + row + 1)
    for begin in range(tl.load(starts + row), last, STEP):
        index = begin + tl.arange(0, STEP)
        held = index < last
        word = tl.load(entries + index, mask=held, other=0)
        offset = (word & 0xFFFF).to(tl.int64)[:, None] * D + column[None, :]
        mask = held[:, None] & inside[None, :]
        up_rows = tl.load(up + offset, mask=mask, other=0.0).to(tl.float32)
        down_rows = tl.load(down + offset, mask=mask, other=0.0).to(tl.float32)
        value = tl.sum(up_rows * token[None, :], axis=1)
        tl.store(projected + index, value, mask=held)
        hidden = (word & -65536).to(tl.float32, bitcast=True) * value
        acc += tl.sum(hidden[:, None] * down_rows, axis=0)
    tl.store(out + row * D + column, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy,
    gate,
    up,
    down,
    starts,
    entries,
    projected,
    d_projected,
    d_gated,
    dx,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    STEP: tl.constexpr,
):
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    column = tl.arange(0, D_P2)
    inside = column < D
    token = tl.load(dy + row * D + column, mask=inside, other=0.0).to(tl.float32)
    acc = tl.load(dx + row * D + column, mask=inside, other=0.0).to(tl.float32)
    last = tl.load(starts + row + 1)
    for begin in range(tl.load(starts + row), last, STEP):
        index = begin + tl.arange(0, STEP)
        held = index < last
        word = tl.load(entries + index, mask=held, other=0)
        offset = (word & 0xFFFF).to(tl.int64)[:, None] * D + column[None, :]
        mask = held[:, None] & inside[None, :]
        down_rows = tl.load(down + offset, mask=mask, other=0.0).to(tl.float32)
        up_rows = tl.load(up + offset, mask=mask, other=0.0).to(tl.float32)
        gate_rows = tl.load(gate + offset, mask=mask, other=0.0).to(tl.float32)
        d_hidden = tl.sum(down_rows * token[None, :], axis=1)
        du = d_hidden * (word & -65536).to(tl.float32, bitcast=True)
        dg = d_hidden * tl.load(projected + index, mask=held, other=0.0)
        tl.store(d_projected + index, du, mask=held)
        tl.store(d_gated + index, dg, mask=held)
        acc += tl.sum(du[:, None] * up_rows + dg[:, None] * gate_rows, axis=0)
    tl.store(dx + row * D + column, acc.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _columns_kernel(
    starts,
    order,
    tokens,
    value_a,
    value_b,
    value_c,
    rows_a,
    rows_bc,
    out_a,
    out_b,
    out_c,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    neuron = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    first, last = tl.load(starts + neuron), tl.load(starts + neuron + 1)
    a = tl.zeros((BLOCK,), dtype=tl.float32)
    b = tl.zeros((BLOCK,), dtype=tl.float32)
    c = tl.zeros((BLOCK,), dtype=tl.float32)
    for begin in range(first, last, STEP):
        index = begin + tl.arange(0, STEP)
        held = index < last
        source = tl.load(order + index, mask=held, other=0)
        token = tl.load(tokens + source, mask=held, other=0).to(tl.int64)
        mask = held[:, None] & inside[None, :]
        offset = token[:, None] * D + column[None, :]
        left = tl.load(rows_a + offset, mask=mask, other=0.0).to(tl.float32)
        right = tl.load(rows_bc + offset, mask=mask, other=0.0).to(tl.float32)
        a += tl.sum(tl.load(value_a + source, mask=held, other=0.0)[:, None] * left, axis=0)
        b += tl.sum(tl.load(value_b + source, mask=held, other=0.0)[:, None] * right, axis=0)
        c += tl.sum(tl.load(value_c + source, mask=held, other=0.0)[:, None] * right, axis=0)
    place = neuron * D + column
    tl.store(out_a + place, a.to(out_a.dtype.element_ty), mask=inside)
    tl.store(out_b + place, b.to(out_b.dtype.element_ty), mask=inside)
    tl.store(out_c + place, c.to(out_c.dtype.element_ty), mask=inside)


def _tiles(words: Any, form: TwellFormat) -> dict[str, int]:
    tiles = words.shape[1] // form.words
    return {"TILES": tiles, "TILES_P2": triton.next_power_of_2(tiles), "WORDS": form.words}


def row_counts(words: Any, form: TwellFormat, capacity: int) -> tuple[Any, Any]:
    """``(counts, heavy)`` of TwELL words, int32 ``[M]``; a heavy row (too many, or a full tile) counts zero."""
    counts, heavy = (torch.empty(len(words), dtype=torch.int32, device=words.device) for _ in range(2))
    _counts_kernel[(len(words),)](words, counts, heavy, capacity, **_tiles(words, form))
    return counts, heavy


def csr_from_words(words: Any, counts: Any, starts: Any, nonzeros: int, form: TwellFormat) -> tuple[Any, Any]:
    """``(entries, tokens)`` int32 ``[nonzeros]`` of the rows that ``counts`` keeps, row by row."""
    entries, tokens = (torch.empty(nonzeros, dtype=torch.int32, device=words.device) for _ in range(2))
    _fill_kernel[(len(words),)](words, counts, starts, entries, tokens, **_tiles(words, form))
    return entries, tokens


def forward_rows(x: Any, up: Any, down: Any, starts: Any, entries: Any, out: Any) -> Any:
    """Add ``sum over a token's entries of g (x_t . Wu_j) Wd_j`` to ``out [M, d]``; the dots, float32 ``[nnz]``."""
    projected = torch.empty(len(entries), dtype=torch.float32, device=x.device)
    _forward_kernel[(len(x),)](x, up, down, starts, entries, projected, out, **_row_sizes(x))
    return projected


def backward_rows(
    dy: Any, gate: Any, up: Any, down: Any, starts: Any, entries: Any, projected: Any, dx: Any
) -> tuple[Any, Any]:
    """Add the entries' part of dx to ``dx [M, d]``; the gradients of the dot products and gates, float32 ``[nnz]``."""
    du, dg = torch.empty_like(projected), torch.empty_like(projected)
    _backward_kernel[(len(dy),)](dy, gate, up, down, starts, entries, projected, du, dg, dx, **_row_sizes(dy))
    return du, dg


def _row_sizes(like: Any) -> dict[str, int]:
    width = like.shape[1]
    return {"D": width, "D_P2": triton.next_power_of_2(width), "STEP": STEP, "num_warps": WARPS}


def column_sums(
    starts: Any,
    order: Any,
    tokens: Any,
    values: tuple[Any, Any, Any],
    rows: tuple[Any, Any, Any],
) -> list[Any]:
    """``sum over a neuron's entries of value * row_t`` for three values; the last two share their rows.

    ``starts`` int32 ``[F + 1]`` into ``order``, which lists entries by neuron; ``tokens``: row of each entry.
    """
    neurons, width = len(starts) - 1, rows[0].shape[1]
    outs = [torch.empty(neurons, width, dtype=rows[0].dtype, device=starts.device) for _ in range(3)]
    block = min(2048, triton.next_power_of_2(width))
    _columns_kernel[(neurons, triton.cdiv(width, block))](
        starts,
        order,
        tokens,
        *values,
        rows[0],
        rows[1],
        *outs,
        D=width,
        BLOCK=block,
        STEP=COLUMN_STEP,
        num_warps=COLUMN_WARPS,
    )
    return outs
