"""Synthetic step models whose times can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsesim.sim.steps import Channel, DecodeCurve


@dataclass(frozen=True)
class Affine:
    """Decode: base + per_sequence*n + per_context * total context; prefill adds per_token and a square term.

    `knots` puts bends into every channel: at knot i the slope of the excess doubles.
    """

    base_s: float = 6e-3
    per_sequence_s: float = 2e-5
    per_context_s: float = 5e-8
    per_token_s: float = 2.7e-5
    per_attended_s: float = 1e-10
    windows: tuple[float, ...] = (math.inf,)
    knots: tuple[float, ...] = (0.0, 1e6)
    components: tuple[str, ...] = ("compute", "memory", "link", "static")
    idle_w: float = 70.0
    active_idle_w: float = 120.0
    compute_w: float = 150.0
    memory_w: float = 250.0

    def decode(self, sequences: int) -> DecodeCurve:
        """Memory energy follows context, compute energy the sequences, static energy the time."""
        base = self.base_s + self.per_sequence_s * sequences
        knots = np.array(self.knots)
        shape = np.cumsum(np.concatenate(([0.0], np.diff(knots) * 2.0 ** np.arange(len(knots) - 1))))
        channels = []
        for window in self.windows:
            time = self.per_context_s * sequences * (knots[0] + shape)
            channels.append(Channel(window, knots, self._values(time, 0.0)))
        return DecodeCurve(self._values(np.array([base]), sequences * 0.1)[0], tuple(channels))

    def _values(self, time: np.ndarray, compute: float) -> np.ndarray:
        return np.stack([time, time * 0 + compute, time * self.memory_w, time * 0, time * self.active_idle_w], axis=1)

    def mixed(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> tuple[float, ...]:
        """Linear in tokens, with the attention of each chunk."""
        time = self.base_s + self.per_sequence_s * decode
        for context in contexts:
            time += self.per_context_s * decode * context
        for q, kv in chunks:
            time += self.per_token_s * q + self.per_attended_s * q * kv
        return (
            time,
            0.1 * decode + sum(q for q, _ in chunks) * 0.05,
            time * self.memory_w,
            0.0,
            time * self.active_idle_w,
        )


@dataclass(frozen=True)
class Constant:
    """Every iteration takes the same time."""

    time_s: float = 1e-3
    windows: tuple[float, ...] = ()
    components: tuple[str, ...] = ("static",)
    idle_w: float = 0.0
    active_idle_w: float = 100.0

    def decode(self, sequences: int) -> DecodeCurve:
        return DecodeCurve(np.array([self.time_s, self.time_s * self.active_idle_w]), ())

    def mixed(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> tuple[float, ...]:
        return (self.time_s, self.time_s * self.active_idle_w)
