"""Device functions that list a row's entries: from its TwELL words, or from a dense gate."""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def compact_twell(words, scratch, WORDS: tl.constexpr, TILES: tl.constexpr, TILES_P2: tl.constexpr, CAPACITY):
    """Copy a row's entries from its TwELL words to ``scratch``; return (their number, whether they fit)."""
    tile = tl.arange(0, TILES_P2)
    counts = tl.load(words + tile * WORDS, mask=tile < TILES, other=0)
    before = tl.cumsum(counts, axis=0) - counts
    total = tl.sum(counts, axis=0)
    fits = (tl.max(counts, axis=0) < WORDS) & (total <= CAPACITY)
    slot = tl.arange(0, WORDS)
    held = (slot[None, :] > 0) & (slot[None, :] <= (counts * fits.to(tl.int32))[:, None])
    entries = tl.load(words + tile[:, None] * WORDS + slot[None, :], mask=held, other=0)
    tl.store(scratch + before[:, None] + slot[None, :] - 1, entries, mask=held)
    return total, fits


@triton.jit
def compact_dense(gate, scratch, F: tl.constexpr, BLOCK_F: tl.constexpr, CAPACITY):
    """Copy the positive entries of a dense gate row to ``scratch``; return (their number, whether they
    fit).
    """
    total = 0
    for begin in range(0, F, BLOCK_F):
        column = begin + tl.arange(0, BLOCK_F)
        value = tl.load(gate + column, mask=column < F, other=0.0).to(tl.bfloat16).to(tl.float32)
        positive = (value > 0).to(tl.int32)
        found = tl.sum(positive, axis=0)
        if found > 0:
            slot = total + tl.cumsum(positive, axis=0) - 1
            bits = value.to(tl.int32, bitcast=True)
            tl.store(scratch + slot, bits | column, mask=(positive > 0) & (slot < CAPACITY))
            total += found
    return total, total <= CAPACITY
