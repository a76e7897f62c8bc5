"""The sparse formats of a gated activation, and what they cost in bytes.

An *entry* is one 32-bit word: the neuron's column in the low half, the bf16 gate value in the high half (so
F is at most 65536). Formats of the non-zeros of ``relu(x Wg^T)``, ``[M, F]``:

- **TwELL** (tile-wise ELLPACK, arXiv 2603.23198): per row and tile of ``tile`` columns, ``words`` words;
  word 0 is the true count of positives, the others are entries by rising column. A tile with more than
  ``words - 1`` positives keeps the first ones and its count tells that it overflowed.
- **rows** (ELL): per row a count and up to ``capacity`` entries by rising column. With ``capacity = F`` no
  row can overflow.
- **CSR**: row starts, then all entries by row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.kernels.common.requirements import KernelRequirementError

MAX_NEURONS = 65536
"""A column has 16 bits."""
SIZE_GRID = 64
"""d and F are multiples of this."""
WORD_BYTES = 4


@dataclass(frozen=True)
class TwellFormat:
    """Tile width and words per (row, tile): at tile 256, 32, 64, 128 words are compression 8, 4, 2."""

    tile: int = 256
    words: int = 32

    def __post_init__(self) -> None:
        """Raise where a size is no power of two or leaves no slot."""
        for name, value in (("tile", self.tile), ("words", self.words)):
            if value < 16 or value & (value - 1):
                raise KernelRequirementError(f"twell: {name} is {value}, must be a power of two from 16 on")

    @property
    def slots(self) -> int:
        """Entries that a tile of a row can hold."""
        return self.words - 1

    def tiles(self, neurons: int) -> int:
        """Number of tiles of a row of ``neurons`` columns."""
        return -(-neurons // self.tile)

    def row_words(self, neurons: int) -> int:
        """Words of one row."""
        return self.tiles(neurons) * self.words

    def row_bytes(self, neurons: int) -> int:
        """Bytes of one row as allocated; a kernel touches only the sectors that hold entries."""
        return self.row_words(neurons) * WORD_BYTES


@dataclass(frozen=True)
class Rows:
    """ELL rows: ``counts`` int32 ``[M]`` (true counts, possibly above the capacity) and ``entries``.

    ``entries`` int32 ``[M, capacity]``; words past a row's count are not initialised.
    """

    counts: Any
    entries: Any

    @property
    def capacity(self) -> int:
        """Entries that a row can hold."""
        return int(self.entries.shape[1])


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows: ``starts`` int32 ``[M + 1]`` and ``entries`` int32 ``[at least nnz]``."""

    starts: Any
    entries: Any


def entry(columns: Any, values: Any) -> Any:
    """Pack columns (integers) and gate values (any float) into int32 words."""
    bits = values.to(torch.bfloat16).view(torch.int16).to(torch.int32) & 0xFFFF
    return (bits << 16) | columns.to(torch.int32)


def entry_columns(words: Any) -> Any:
    """Columns of entries, int64."""
    return (words & 0xFFFF).to(torch.int64)


def entry_values(words: Any) -> Any:
    """Gate values of entries, float32: the high half of the word is a bf16, hence a float32 with a zero
    tail.
    """
    return (words & -65536).view(torch.float32)
