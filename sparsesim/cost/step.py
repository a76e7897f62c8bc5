"""Steps of a replica under an engine: the tables' totals finished with host time, gaps and the power cap."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsesim.cost.accumulate import (
    COLLECTIVE,
    COMPONENTS,
    CORE,
    EXPERTS,
    TIME,
    WIDTH,
    Floats,
    Overhead,
    Priced,
    finished,
    finished_one,
    price,
)
from sparsesim.cost.curve import Channel, DecodeCurve
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.tables import StepTables
from sparsesim.hardware.device.gpu import Chip
from sparsesim.hardware.engine import Engine
from sparsesim.model.arch import Batch, Model
from sparsesim.model.setting import Setting
from sparsesim.work import Task

MIXED_KEPT = 1 << 16
"""Lines of mixed steps that are kept: some 60 MB; all are forgotten beyond, and made again when asked for."""


@dataclass(frozen=True)
class ReplicaSteps:
    """`StepModel` of one replica of a model on GPUs under an engine.

    `stretch` scales kernel times: 1 for the middle, the bounds of the 90 % interval for the low and high curves.
    """

    tables: StepTables
    engine: Engine
    devices: int
    stretch: float = 1.0
    _curves: dict[int, DecodeCurve] = field(default_factory=dict, repr=False)
    _mixed: dict[Any, tuple[tuple[float, float], ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> Model:
        """What runs."""
        return self.tables.model

    @property
    def setting(self) -> Setting:
        """Its layout and precision."""
        return self.tables.setting

    @property
    def costs(self) -> CostModel:
        """What it runs on."""
        return self.tables.costs

    @property
    def components(self) -> tuple[str, ...]:
        """Of the energy."""
        return COMPONENTS

    @property
    def windows(self) -> tuple[float, ...]:
        """Distinct attention windows, the widest first."""
        return self.tables.windows

    @property
    def knots(self) -> Floats:
        """Contexts at which the curves are tabulated."""
        return self.tables.knots

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

    def overhead(self, tokens: int, sequences: int) -> Overhead:
        """What the engine adds to a step of `tokens` a rank and `sequences` of the replica.

        Every attention-data-parallel rank has an engine process of its own, which serves its own sequences.
        """
        vocab = self.model.vocab
        return Overhead(
            host_s=self.engine.host_s(sequences / self.setting.dp, vocab),
            sampling_s=self.engine.sampling_s(sequences / self._groups, vocab),
            sampling_w=self.costs.streaming_w,
            graph=tokens <= self.engine.graph_tok.value,
        )

    def _finished(self, total: Floats, tokens: int, sequences: int) -> Floats:
        if self.stretch != 1.0:
            total = total.copy()
            total[..., [TIME, EXPERTS, COLLECTIVE, CORE]] *= self.stretch
        values = finished(total, self.overhead(tokens, sequences), self.engine, self.costs.power)
        values[..., 1:] *= self.devices
        return values

    def tasks(self, batch: Batch) -> list[Task]:
        """A rank's kernels but the head, parts of size zero left out."""
        model, setting = self.model, self.setting
        tasks = model.token_tasks(batch.tokens, setting)
        if batch.decode:
            tasks += model.decode_tasks(batch.decode, batch.context, setting)
        for chunk in batch.chunks:
            tasks += model.chunk_tasks(chunk.count, chunk.q_tok, chunk.kv_tok, setting)
        return tasks

    def head(self, batch: Batch) -> list[Task]:
        """The kernels that give next tokens."""
        sampled = batch.decode + len(batch.chunks) if batch.sampled is None else batch.sampled
        return self.model.head_tasks(sampled, self.setting) if sampled else []

    def priced(self, batch: Batch) -> tuple[Priced, ...]:
        """The kernels of a step of `batch` on each attention rank, with what each costs."""
        return tuple(price(self.tasks(batch) + self.head(batch), self.costs))

    def on_chips(self, priced: Iterable[Priced]) -> list[tuple[Chip, list[Priced]]]:
        """Kernels by the chip that runs them."""
        return [(self.costs.chip, list(priced))]

    def decode(self, sequences: int) -> DecodeCurve:
        """A step in which every one of `sequences` gets a token."""
        if sequences not in self._curves:
            held = math.ceil(sequences / self._groups)
            fixed, by_window = self.tables.decode(held)
            tokens, width = held * self.tables.width, self.tables.width
            base = np.add(self.tables.tokens.at(tokens), self.tables.head.at(tokens)) + fixed
            self._curves[sequences] = self._curve(sequences * width, tokens, base, by_window)
        return self._curves[sequences]

    def _curve(self, sequences: int, held: int, base: Floats, by_window: dict[float, Floats]) -> DecodeCurve:
        """The widest window's channel takes what the cap adds to the sum, so equal contexts are exact."""
        start = self._finished(base, held, sequences)
        if not by_window:
            return DecodeCurve(start, ())
        whole = self._finished(base + sum(by_window.values(), np.zeros(WIDTH)), held, sequences)
        channels, others = [], np.zeros_like(whole)
        for window in self.windows[1:]:
            values = self._finished(base + by_window[window], held, sequences) - start
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

        Beside decoding sequences of one window it is linear between the knots, as decode curves are. The lines are
        kept: equal prompts meet the same numbers of sequences again and again.
        """
        if len(contexts) != 1:
            return self.mixed_at(decode, contexts, chunks, sampled)
        knots, context = self.tables.knot_list, contexts[0]
        i = min(max(bisect_right(knots, context) - 1, 0), len(knots) - 2) if decode else -1
        key = (decode, sampled, i, tuple(chunks))
        found = self._mixed.get(key)
        if found is None:
            if len(self._mixed) >= MIXED_KEPT:
                self._mixed.clear()
            found = self._mixed[key] = self._mixed_line(decode, i, chunks, sampled)
        beyond = context - knots[i]
        return [value + slope * beyond for value, slope in found] if decode else [value for value, _ in found]

    def _mixed_line(
        self, decode: int, i: int, chunks: Sequence[tuple[int, int]], sampled: int
    ) -> tuple[tuple[float, float], ...]:
        """Values at a knot of the mean context and their slopes up to the next one."""
        if not decode:
            return tuple((value, 0.0) for value in self.mixed_at(0, (0.0,), chunks, sampled))
        first, last = self.tables.knot_list[i : i + 2]
        low, high = (self.mixed_at(decode, (knot,), chunks, sampled) for knot in (first, last))
        return tuple((a, (b - a) / (last - first)) for a, b in zip(low, high, strict=True))

    def mixed_at(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """The same without lines. Plain floats throughout: this runs for every new mixture."""
        groups, tables = self._groups, self.tables
        verified = decode * tables.width
        tokens = -(-(verified + sum(q for q, _ in chunks)) // groups)
        sampled += verified - decode
        rows = [tables.tokens.at(tokens)]
        if sampled:
            rows.append(tables.head.at(-(-sampled // groups)))
        if decode:
            rows += tables.decode_rows(-(-decode // groups), contexts)
        rows += tables.chunks(chunks, groups)
        total = [sum(column) for column in zip(*rows, strict=True)]
        if self.stretch != 1.0:
            for place in (TIME, EXPERTS, COLLECTIVE, CORE):
                total[place] *= self.stretch
        values = finished_one(total, self.overhead(tokens, verified + len(chunks)), self.engine, self.costs.power)
        return (values[0], *(v * self.devices for v in values[1:]))
