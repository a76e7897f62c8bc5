"""Steps of a replica that runs every batch as two halves: one computes while the other communicates.

    t = 2 max(C, N),    C, N: compute and communication of half the batch

(`overlap.two_batch` over a whole step.) The halves read the weights each, so that small batches lose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsesim.cost.accumulate import COLLECTIVE, CORE, EXPERTS, TIME, Floats, finished_one
from sparsesim.cost.curve import DecodeCurve
from sparsesim.cost.step import ReplicaSteps


@dataclass(frozen=True)
class TwoBatchSteps(ReplicaSteps):
    """`ReplicaSteps` with two-batch overlap."""

    def _both(self, half: Floats) -> Floats:
        """Totals of both halves from those of one: communication that compute does not hide is left."""
        engine, both = self.engine, 2.0 * half
        compute = both[..., TIME] * engine.quality.value + both[..., EXPERTS] * engine.experts.value
        hidden = compute / max(engine.collectives.value, 1e-9)
        both[..., COLLECTIVE] = np.maximum(both[..., COLLECTIVE] - hidden, 0.0)
        return both

    def _finished(self, total: Floats, tokens: int, sequences: int) -> Floats:
        return super()._finished(self._both(total), tokens, sequences)

    def decode(self, sequences: int) -> DecodeCurve:
        """A step in which every one of `sequences` gets a token."""
        if sequences not in self._curves:
            held = math.ceil(sequences / self._groups)
            half = math.ceil(held / 2)
            fixed, by_window = self.tables.decode(half)
            base = np.add(self.tables.tokens.at(half), self.tables.head.at(half)) + fixed
            self._curves[sequences] = self._curve(sequences, held, base, by_window)
        return self._curves[sequences]

    def mixed_at(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """A step with prompt chunks: a half has half of everything a rank has."""
        halves, tables = 2 * self._groups, self.tables
        tokens = decode + sum(q for q, _ in chunks)
        rows = [tables.tokens.at(-(-tokens // halves))]
        if sampled:
            rows.append(tables.head.at(-(-sampled // halves)))
        if decode:
            rows += tables.decode_rows(-(-decode // halves), contexts)
        rows += [tuple(v / 2 for v in row) for row in tables.chunks(chunks, self._groups)]
        total = self._both(np.sum(rows, axis=0))
        total[[TIME, EXPERTS, COLLECTIVE, CORE]] *= self.stretch
        overhead = self.overhead(-(-tokens // self._groups), decode + len(chunks))
        values = finished_one(total.tolist(), overhead, self.engine, self.costs.power)
        return (values[0], *(v * self.devices for v in values[1:]))
