"""Steps of a replica, tabulated from the cost core for the simulation.

A step is what depends on its number of tokens (tabulated at every number, in blocks, when first asked for), what
depends on the decoding sequences and their context (one curve per batch size), what depends on each prompt chunk, and
the head for the sampled tokens. The power cap acts on their sum.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sparsesim.cost.accumulate import COMPONENTS, CORE, TIME, WIDTH, Floats, finished, finished_one, price, totals
from sparsesim.cost.curve import Channel, DecodeCurve
from sparsesim.cost.kernel import CostModel
from sparsesim.hardware.engine import Engine
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting
from sparsesim.work import Task

BLOCK_ROWS = 256
CHUNK_ROWS = 64
KNOTS_PER_OCTAVE = 4
"""Knots of a decode curve: the chord of a power-norm's knee over a quarter octave stays within 0.1 % (tested)."""
_BATCH_ROWS = 32


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
            self._rows.update(
                zip(range(first, first + self.block), map(tuple, self.function(numbers).tolist()), strict=True)
            )
        return self._rows[number]


@dataclass(frozen=True)
class ReplicaSteps:
    """`StepModel` of one replica of a model on GPUs under an engine.

    `stretch` scales kernel times: 1 for the middle, the bounds of the 90 % interval for the low and high curves.
    """

    model: Model
    setting: Setting
    costs: CostModel
    engine: Engine
    devices: int
    stretch: float = 1.0
    _curves: dict[int, DecodeCurve] = field(default_factory=dict, repr=False)
    _chunks: dict[int, Table] = field(default_factory=dict, repr=False)

    @property
    def components(self) -> tuple[str, ...]:
        """Of the energy."""
        return COMPONENTS

    @cached_property
    def windows(self) -> tuple[float, ...]:
        """Distinct attention windows, the widest first."""
        parts = self.model.decode_by_window(1.0, 2.0, self.setting)
        return tuple(sorted((w for w, tasks in parts.items() if w > 0 and tasks), reverse=True))

    @property
    def idle_w(self) -> float:
        """All devices at low clocks."""
        return self.costs.power.idle_w * self.devices

    @property
    def active_idle_w(self) -> float:
        """All devices at full clocks with nothing to do."""
        return self.costs.gpu.power.active_idle.value * self.devices

    @property
    def _groups(self) -> int:
        return self.setting.dp * self.setting.pp

    def _totals(self, tasks: Sequence[Task], shape: tuple[int, ...]) -> Floats:
        total = totals(price(tasks, self.costs), self.engine, shape)
        total[..., [TIME, CORE]] *= self.stretch
        return total

    @cached_property
    def _tokens(self) -> Table:
        return Table(lambda t: self._totals(self.model.token_tasks(t, self.setting), t.shape))

    @cached_property
    def _head(self) -> Table:
        return Table(lambda s: self._totals(self.model.head_tasks(s, self.setting), s.shape))

    def _host(self, sequences: int) -> float:
        return self.engine.host_s(sequences, self.model.vocab)

    def _finished(self, total: Floats, tokens: int, sequences: int) -> Floats:
        graph = np.full(total.shape[:-1], tokens <= self.engine.graph_tok.value)
        host = np.full(total.shape[:-1], self._host(sequences))
        values = finished(total, host, graph, self.engine, self.costs.power)
        values[..., 1:] *= self.devices
        return values

    @cached_property
    def knots(self) -> Floats:
        """Contexts at which the curves are tabulated."""
        top = max(math.log2(self.model.max_context), 8.0)
        powers = np.arange(0, math.ceil(top * KNOTS_PER_OCTAVE) + 1) / KNOTS_PER_OCTAVE
        finite = [w for w in self.windows if math.isfinite(w)]
        return np.unique(np.concatenate([np.round(2.0**powers), finite]))

    @cached_property
    def knot_list(self) -> list[float]:
        """The same as plain floats."""
        return [float(k) for k in self.knots]

    def decode(self, sequences: int) -> DecodeCurve:
        """A step in which every one of `sequences` gets a token."""
        if sequences not in self._curves:
            held = math.ceil(sequences / self._groups)
            fixed, by_window = self._parts.at(held)
            base = np.add(self._tokens.at(held), self._head.at(held)) + fixed
            self._curves[sequences] = self._curve(sequences, base, by_window)
        return self._curves[sequences]

    def _curve(self, sequences: int, base: Floats, by_window: dict[float, Floats]) -> DecodeCurve:
        """The widest window's channel takes what the cap adds to the sum, so equal contexts are exact."""
        rank_tokens = math.ceil(sequences / self._groups)
        whole = self._finished(base + sum(by_window.values(), np.zeros(WIDTH)), rank_tokens, sequences)
        start = self._finished(base, rank_tokens, sequences)
        if not by_window:
            return DecodeCurve(start, ())
        channels, others = [], np.zeros_like(whole)
        for window in self.windows[1:]:
            values = self._finished(base + by_window[window], rank_tokens, sequences) - start
            others = others + values
            inside = self.knots <= window
            channels.append(Channel(window, self.knots[inside], values[inside]))
        inside = self.knots <= self.windows[0]
        main = Channel(self.windows[0], self.knots[inside], (whole - start - others)[inside])
        return DecodeCurve(start, (main, *channels))

    def mixed(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """A step with prompt chunks; ranks of dp and stages of pp share tokens and chunks evenly.

        Plain floats throughout: this runs once for every step with a prompt in it.
        """
        groups = self._groups
        tokens = -(-(decode + sum(q for q, _ in chunks)) // groups)
        rows = [self._tokens.at(tokens)]
        if sampled:
            rows.append(self._head.at(-(-sampled // groups)))
        if decode:
            rows += self._parts.rows(-(-decode // groups), contexts)
        share = min(len(chunks), groups)
        rows += [
            row if share == 1 else tuple(v / share for v in row) for row in (self._chunk(q, kv) for q, kv in chunks)
        ]
        total = [sum(column) for column in zip(*rows, strict=True)]
        graph = tokens <= self.engine.graph_tok.value
        values = finished_one(total, self._host(decode + len(chunks)), graph, self.engine, self.costs.power)
        return (values[0], *(v * self.devices for v in values[1:]))

    def _chunk(self, q: int, kv: int) -> Row:
        past = kv - q
        if past not in self._chunks:
            self._chunks[past] = Table(
                lambda q: self._totals(self.model.chunk_tasks(1.0, q, q + past, self.setting), q.shape), CHUNK_ROWS
            )
        return self._chunks[past].at(q)

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts(self)


@dataclass
class _Parts:
    """Decode totals by batch size: what context does not change, and rows over the knots by window."""

    steps: ReplicaSteps
    _known: dict[int, tuple[Floats, dict[float, Floats]]] = field(default_factory=dict)
    _lines: dict[int, tuple[Row, list[tuple[list[Row], list[Row]]]]] = field(default_factory=dict)

    def at(self, held: int) -> tuple[Floats, dict[float, Floats]]:
        if held not in self._known:
            self._fill((held - 1) // _BATCH_ROWS * _BATCH_ROWS + 1)
        return self._known[held]

    def rows(self, held: int, contexts: tuple[float, ...]) -> list[Row]:
        """Totals of the decoding sequences at their contexts, uncapped, interpolated between the curves' knots."""
        if held not in self._lines:
            fixed, by_window = self.at(held)
            lines = [self._line(by_window[w]) for w in self.steps.windows]
            self._lines[held] = tuple(fixed.tolist()), lines
        fixed_row, lines = self._lines[held]
        knots, found = self.steps.knot_list, [fixed_row]
        for (values, slopes), context in zip(lines, contexts, strict=True):
            i = min(max(bisect_right(knots, context) - 1, 0), len(slopes) - 1)
            beyond = context - knots[i]
            found.append(tuple(v + s * beyond for v, s in zip(values[i], slopes[i], strict=True)))
        return found

    def _line(self, rows: Floats) -> tuple[list[Row], list[Row]]:
        slopes = np.diff(rows, axis=0) / np.diff(self.steps.knots)[:, None]
        return [tuple(r) for r in rows.tolist()], [tuple(r) for r in slopes.tolist()]

    def _fill(self, first: int) -> None:
        s = self.steps
        held = np.arange(first, first + _BATCH_ROWS, dtype=float)
        shape = (len(held), len(s.knots))
        parts = s.model.decode_by_window(held[:, None], s.knots[None, :], s.setting)
        fixed = s._totals(parts.get(0.0, []), shape)
        by_window = {w: s._totals(parts[w], shape) for w in s.windows}
        for row, number in enumerate(held):
            self._known[int(number)] = (fixed[row, 0], {w: t[row] for w, t in by_window.items()})
