"""A dense gate turned into a sparse format by a kernel of its own: TwELL words, ELL rows or CSR.

These are the baselines behind the "sparse paradox": each reads ``M F`` gate values back from memory (11 KB
a token at F 5632 in bf16) before anything is saved. CSR has to count, scan and fill, so it reads them
twice.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import require_gpu
from sparsesim.kernels.twell.compact import compact_dense
from sparsesim.kernels.twell.format import Csr, Rows, TwellFormat

BLOCK_F = 1024


@triton.jit
def _rows_kernel(gate, counts, entries, capacity, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    total, _ = compact_dense(gate + row * F, entries + row * capacity, F, BLOCK, capacity)
    tl.store(counts + row, total)


@triton.jit
def _count_kernel(gate, counts, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    total = 0
    for begin in range(0, F, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        value = tl.load(gate + row * F + column, mask=column < F, other=0.0).to(tl.float32)
        total += tl.sum((value > 0).to(tl.int32), axis=0)
    tl.store(counts + row, total)


@triton.jit
def _fill_kernel(gate, starts, entries, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    compact_dense(gate + row * F, entries + tl.load(starts + row), F, BLOCK, F)


@triton.jit
def _words_kernel(gate, words, F: tl.constexpr, TILE: tl.constexpr, WORDS: tl.constexpr, TILES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for tile in range(TILES):
        column = tile * TILE + tl.arange(0, TILE)
        value = tl.load(gate + row * F + column, mask=column < F, other=0.0).to(tl.bfloat16).to(tl.float32)
        positive = (value > 0).to(tl.int32)
        base = words + (row * TILES + tile) * WORDS
        slot = tl.cumsum(positive, axis=0)
        bits = value.to(tl.int32, bitcast=True)
        tl.store(base + slot, bits | column, mask=(positive > 0) & (slot < WORDS))
        tl.store(base, tl.sum(positive, axis=0))


def to_rows(gate: Any, capacity: int) -> Rows:
    """ELL rows of a dense gate ``[M, F]``; counts above ``capacity`` tell of overflow."""
    require_gpu("twell to_rows")
    rows, neurons = gate.shape
    counts = torch.empty(rows, dtype=torch.int32, device=gate.device)
    entries = torch.empty(rows, capacity, dtype=torch.int32, device=gate.device)
    _rows_kernel[(rows,)](gate, counts, entries, capacity, F=neurons, BLOCK=BLOCK_F)
    return Rows(counts, entries)


def to_words(gate: Any, form: TwellFormat) -> Any:
    """TwELL words of a dense gate ``[M, F]``, int32 ``[M, row_words]``."""
    require_gpu("twell to_words")
    rows, neurons = gate.shape
    words = torch.empty(rows, form.row_words(neurons), dtype=torch.int32, device=gate.device)
    sizes = {"TILE": form.tile, "WORDS": form.words, "TILES": form.tiles(neurons)}
    _words_kernel[(rows,)](gate, words, F=neurons, **sizes)
    return words


def to_csr(gate: Any, room: int) -> Csr:
    """CSR of a dense gate ``[M, F]``; ``room`` entries are allocated, at least the number of non-zeros.

    The number of non-zeros stays on the device, hence ``room``: with ``M * F`` it is safe on any input.
    """
    require_gpu("twell to_csr")
    rows, neurons = gate.shape
    starts = torch.zeros(rows + 1, dtype=torch.int32, device=gate.device)
    entries = torch.empty(room, dtype=torch.int32, device=gate.device)
    _count_kernel[(rows,)](gate, starts[1:], F=neurons, BLOCK=BLOCK_F)
    torch.cumsum(starts[1:], 0, out=starts[1:])
    _fill_kernel[(rows,)](gate, starts, entries, F=neurons, BLOCK=BLOCK_F)
    return Csr(starts, entries)
