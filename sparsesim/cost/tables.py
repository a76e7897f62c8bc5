"""What a model's steps cost on a device before any engine: tabulated by what each part depends on.

Tokens and sampled sequences are tabulated at every number, in blocks, when first asked for; decoding sequences as rows
over knots of context, by attention window; prompt chunks by their length for each length of the prompt before them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sparsesim.cost.accumulate import Floats, price, totals
from sparsesim.cost.kernel import CostModel
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting
from sparsesim.work import Task

BLOCK_ROWS = 256
CHUNK_ROWS = 64
BATCH_ROWS = 32
KNOTS_PER_OCTAVE = 4
"""Knots of a decode curve: the chord of a power-norm's knee over a quarter octave stays within 0.1 % (tested)."""

Row = tuple[float, ...]


@dataclass
class Table:
    """Rows of a function of a whole number, computed by blocks when first asked for."""

    function: Callable[[Floats], Floats]
    block: int = BLOCK_ROWS
    _rows: dict[int, Row] = field(default_factory=dict)

    def at(self, number: int) -> Row:
        """The row of a number of at least one."""
        if number not in self._rows:
            first = (number - 1) // self.block * self.block + 1
            numbers = np.arange(first, first + self.block, dtype=float)
            rows = map(tuple, self.function(numbers).tolist())
            self._rows.update(zip(range(first, first + self.block), rows, strict=True))
        return self._rows[number]


@dataclass(frozen=True)
class StepTables:
    """Totals (`accumulate.totals`) of one device's parts of a step."""

    model: Model
    setting: Setting
    costs: CostModel
    _chunks: dict[tuple[int, float], Table] = field(default_factory=dict, repr=False)
    _decode: dict[int, tuple[Floats, dict[float, Floats]]] = field(default_factory=dict, repr=False)
    _lines: dict[int, tuple[Row, list[tuple[list[Row], list[Row]]]]] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """Tokens of a decoding sequence in a step."""
        return 1

    @cached_property
    def windows(self) -> tuple[float, ...]:
        """Distinct attention windows, the widest first."""
        parts = self.model.decode_by_window(1.0, 2.0, self.setting)
        return tuple(sorted((w for w, tasks in parts.items() if w > 0 and tasks), reverse=True))

    @cached_property
    def knots(self) -> Floats:
        """Contexts at which decoding is tabulated."""
        top = max(math.log2(self.model.max_context), 8.0)
        powers = np.arange(0, math.ceil(top * KNOTS_PER_OCTAVE) + 1) / KNOTS_PER_OCTAVE
        finite = [w for w in self.windows if math.isfinite(w)]
        return np.unique(np.concatenate([np.round(2.0**powers), finite]))

    @cached_property
    def knot_list(self) -> list[float]:
        """The same as plain floats."""
        return [float(k) for k in self.knots]

    @cached_property
    def tokens(self) -> Table:
        """By the step's tokens."""
        return Table(lambda t: self._totals(self.model.token_tasks(t, self.setting), t.shape))

    @cached_property
    def head(self) -> Table:
        """By the sequences that get a next token."""
        return Table(lambda s: self._totals(self.model.head_tasks(s, self.setting), s.shape))

    def chunks(self, chunks: Sequence[tuple[int, int]], groups: int) -> list[Row]:
        """Prompt chunks (new tokens, tokens attended), shared by up to `groups` ranks; equal ones in one kernel."""
        share, rows = min(len(chunks), groups), list[Row]()
        for (q, kv), alike in Counter(chunks).items():
            number = alike / share
            row = self._chunk(q, kv, max(number, 1.0))
            rows.append(row if number >= 1.0 else tuple(v * number for v in row))
        return rows

    def _chunk(self, q_tok: int, kv_tok: int, number: float) -> Row:
        past = kv_tok - q_tok
        if (past, number) not in self._chunks:
            self._chunks[past, number] = Table(
                lambda q: self._totals(self.model.chunk_tasks(number, q, q + past, self.setting), q.shape),
                CHUNK_ROWS if number == 1.0 else 1,
            )
        return self._chunks[past, number].at(q_tok)

    def decode(self, held: int) -> tuple[Floats, dict[float, Floats]]:
        """`held` sequences: what context does not change, and rows over the knots by window."""
        if held not in self._decode:
            self._fill((held - 1) // BATCH_ROWS * BATCH_ROWS + 1)
        return self._decode[held]

    def decode_rows(self, held: int, contexts: tuple[float, ...]) -> list[Row]:
        """`held` sequences at a mean context for each window, interpolated between the knots."""
        if held not in self._lines:
            fixed, by_window = self.decode(held)
            self._lines[held] = tuple(fixed.tolist()), [self._line(by_window[w]) for w in self.windows]
        fixed_row, lines = self._lines[held]
        knots, found = self.knot_list, [fixed_row]
        for (values, slopes), context in zip(lines, contexts, strict=True):
            i = min(max(bisect_right(knots, context) - 1, 0), len(slopes) - 1)
            beyond = context - knots[i]
            found.append(tuple(v + s * beyond for v, s in zip(values[i], slopes[i], strict=True)))
        return found

    def _line(self, rows: Floats) -> tuple[list[Row], list[Row]]:
        slopes = np.diff(rows, axis=0) / np.diff(self.knots)[:, None]
        return [tuple(r) for r in rows.tolist()], [tuple(r) for r in slopes.tolist()]

    def _fill(self, first: int) -> None:
        held = np.arange(first, first + BATCH_ROWS, dtype=float)
        shape = (len(held), len(self.knots))
        parts = self.model.decode_by_window(held[:, None], self.knots[None, :], self.setting)
        fixed = self._totals(parts.get(0.0, []), shape)
        by_window = {w: self._totals(parts[w], shape) for w in self.windows}
        for row, number in enumerate(held):
            self._decode[int(number)] = (fixed[row, 0], {w: t[row] for w, t in by_window.items()})

    def _totals(self, tasks: Sequence[Task], shape: tuple[int, ...]) -> Floats:
        return totals(price(tasks, self.costs), shape)
