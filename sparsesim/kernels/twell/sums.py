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
def _dot_kernel(x, weight, starts, entries, out, D: tl.constexpr, D_P2: tl.constexpr, STEP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, D_P2)
    inside = column < D
    token = tl.load(x + row * D + column, mask=inside, other=0.0).to(tl.float32)
    last = tl.load(starts + row + 1)
    for begin in range(tl.load(starts + row), last, STEP):
        index = begin + tl.arange(0, STEP)
        neuron = (tl.load(entries + index, mask=index < last, other=0) & 0xFFFF).to(tl.int64)
        mask = (index < last)[:, None] & inside[None, :]
        rows = tl.load(weight + neuron[:, None] * D + column[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(out + index, tl.sum(rows * token[None, :], axis=1), mask=index < last)


@triton.jit
def _rows_kernel(
    starts,
    entries,
    value_a,
    weight_a,
    value_b,
    weight_b,
    out,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    STEP: tl.constexpr,
    PAIR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, D_P2)
    inside = column < D
    acc = tl.zeros((D_P2,), dtype=tl.float32)
    last = tl.load(starts + row + 1)
    for begin in range(tl.load(starts + row), last, STEP):
        index = begin + tl.arange(0, STEP)
        neuron = (tl.load(entries + index, mask=index < last, other=0) & 0xFFFF).to(tl.int64)
        mask = (index < last)[:, None] & inside[None, :]
        offset = neuron[:, None] * D + column[None, :]
        a = tl.load(value_a + index, mask=index < last, other=0.0)
        acc += tl.sum(a[:, None] * tl.load(weight_a + offset, mask=mask, other=0.0).to(tl.float32), axis=0)
        if PAIR:
            b = tl.load(value_b + index, mask=index < last, other=0.0)
            acc += tl.sum(b[:, None] * tl.load(weight_b + offset, mask=mask, other=0.0).to(tl.float32), axis=0)
    tl.store(out + row * D + column, acc.to(out.dtype.element_ty), mask=inside)


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
    wanted,
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
    first = tl.load(starts + neuron)
    last = first + (tl.load(starts + neuron + 1) - first) * tl.load(wanted + neuron)
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


def _tiles(neurons: int, form: TwellFormat) -> dict[str, int]:
    tiles = form.tiles(neurons)
    return {"TILES": tiles, "TILES_P2": triton.next_power_of_2(tiles), "WORDS": form.words}


def row_counts(words: Any, neurons: int, form: TwellFormat, capacity: int) -> tuple[Any, Any]:
    """``(counts, heavy)`` of TwELL words, int32 ``[M]``; a heavy row (too many, or a full tile) counts zero."""
    counts, heavy = (torch.empty(len(words), dtype=torch.int32, device=words.device) for _ in range(2))
    _counts_kernel[(len(words),)](words, counts, heavy, capacity, **_tiles(neurons, form))
    return counts, heavy


def csr_from_words(
    words: Any, counts: Any, starts: Any, nonzeros: int, neurons: int, form: TwellFormat
) -> tuple[Any, Any]:
    """``(entries, tokens)`` int32 ``[nonzeros]`` of the rows that ``counts`` keeps, row by row."""
    entries, tokens = (torch.empty(nonzeros, dtype=torch.int32, device=words.device) for _ in range(2))
    _fill_kernel[(len(words),)](words, counts, starts, entries, tokens, **_tiles(neurons, form))
    return entries, tokens


def sampled_dot(x: Any, weight: Any, starts: Any, entries: Any) -> Any:
    """``x_t . W_j`` for every entry (t, j): float32 ``[nnz]``; ``x [M, d]``, ``weight [F, d]``."""
    out = torch.empty(len(entries), dtype=torch.float32, device=x.device)
    width = x.shape[1]
    sizes = {"D": width, "D_P2": triton.next_power_of_2(width), "STEP": STEP, "num_warps": WARPS}
    _dot_kernel[(len(x),)](x, weight, starts, entries, out, **sizes)
    return out


def weighted_rows(starts: Any, entries: Any, terms: list[tuple[Any, Any]], like: Any) -> Any:
    """``sum over a token's entries of value * W_j``, over one or two ``(values, weight)`` terms; shaped ``like``."""
    out = torch.empty_like(like)
    first, second = terms[0], terms[-1]
    width = like.shape[1]
    sizes = {"D": width, "D_P2": triton.next_power_of_2(width), "STEP": STEP, "num_warps": WARPS}
    _rows_kernel[(len(like),)](starts, entries, *first, *second, out, PAIR=len(terms) == 2, **sizes)
    return out


def column_sums(
    starts: Any,
    order: Any,
    tokens: Any,
    values: tuple[Any, Any, Any],
    rows: tuple[Any, Any, Any],
    wanted: Any,
) -> list[Any]:
    """``sum over a neuron's entries of value * row_t`` for three values; the last two share their rows.

    ``starts`` int32 ``[F + 1]`` into ``order``, which lists entries by neuron; ``tokens``: row of each entry. Neurons
    not ``wanted`` (bool ``[F]``) get zeros.
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
        wanted.to(torch.int32),
        *outs,
        D=width,
        BLOCK=block,
        STEP=COLUMN_STEP,
        num_warps=COLUMN_WARPS,
    )
    return outs
