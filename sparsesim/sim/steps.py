"""What the engine knows of costs: the time and energy of an iteration, as curves that a leap can integrate.

A decode iteration of n sequences costs `base(n) + sum over channels of f(c)`, where the channel of attention window w
has the coordinate c = mean over the batch of min(context, w), and f is piecewise linear. While the batch does not
change, c grows by a constant per iteration, so inside one segment the time of iteration j is a + b*j.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sparsesim.cost.curve import Channel, DecodeCurve, Floats

__all__ = ["Channel", "Curves", "DecodeCurve", "Floats", "Line", "StepModel", "leap_totals"]


class StepModel(Protocol):
    """The costs of one replica's iterations; values are (time_s, *energy_j by component)."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the energy components."""

    @property
    def windows(self) -> tuple[float, ...]:
        """The attention window of each channel, tokens."""

    @property
    def idle_w(self) -> float:
        """Power of the replica's devices with nothing to do, at low clocks."""

    @property
    def active_idle_w(self) -> float:
        """Power of the replica's devices between iterations, at full clocks."""

    def decode(self, sequences: int) -> DecodeCurve:
        """An iteration in which `sequences` sequences get one token each."""

    def mixed(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """An iteration with prompt chunks.

        Args:
            decode: sequences that get one token each.
            contexts: the coordinate of each channel over those sequences (0 where there are none).
            chunks: (tokens computed, tokens attended, the new ones included) of each chunk.
            sampled: tokens sampled: the decoding sequences and the chunks that complete their prompt.

        """


class Line:
    """One channel of a decode curve as plain lists: the fastest way to look a segment up in Python."""

    __slots__ = ("inner", "knots", "slopes", "times")

    def __init__(self, channel: Channel, base_s: float) -> None:
        self.knots: list[float] = channel.knots.tolist()
        self.times: list[float] = (channel.values[:, 0] + base_s).tolist()
        self.inner = [*self.knots[1:-1], math.inf]
        pairs = range(len(self.knots) - 1)
        knots, times = self.knots, self.times
        self.slopes = [(times[i + 1] - times[i]) / (knots[i + 1] - knots[i]) for i in pairs] or [0.0]

    def at(self, coordinate: float) -> tuple[float, float, float]:
        """Time, its slope, and the distance to the segment's end (inf in the last one)."""
        inner = self.inner
        i = bisect_right(inner, coordinate)
        slope = self.slopes[i]
        return self.times[i] + slope * (coordinate - self.knots[i]), slope, inner[i] - coordinate


class Curves:
    """The decode curves of a StepModel by batch size, looked up when first used."""

    __slots__ = ("_model", "_table")

    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._table: dict[int, tuple[Line, ...]] = {}

    def lines(self, sequences: int) -> tuple[Line, ...]:
        """One line per channel; the base is in the first (a model without channels has one constant line)."""
        lines = self._table.get(sequences)
        if lines is None:
            lines = self._table[sequences] = _lines(self._model.decode(sequences))
        return lines


def _lines(curve: DecodeCurve) -> tuple[Line, ...]:
    base_s = float(curve.base[0])
    channels = curve.channels or (Channel(math.inf, np.zeros(1), np.zeros((1, len(curve.base)))),)
    return tuple(Line(channel, base_s if i == 0 else 0.0) for i, channel in enumerate(channels))


def leap_totals(curve: DecodeCurve, starts: Floats, growth: Floats, iterations: Floats) -> Floats:
    """Time and energy of whole leaps, [rows, 1 + components].

    Args:
        curve: of the leaps' batch size.
        starts: coordinates of the first iteration, [rows, channels].
        growth: what they grow by per iteration, [rows, channels]; no leap crosses a knot.
        iterations: of each leap, [rows].

    With f(c) = v + s*(c - knot) in the leap's segment, m iterations cost m*f(c0) + s*growth*m*(m-1)/2.

    """
    m = iterations[:, None]
    total = curve.base[None, :] * m
    for k, channel in enumerate(curve.channels):
        first, slope = _segment(channel, starts[:, k])
        total += first * m + slope * growth[:, k : k + 1] * m * (m - 1) / 2
    return total


def _segment(channel: Channel, coordinate: Floats) -> tuple[Floats, Floats]:
    if len(channel.knots) == 1:
        value = np.broadcast_to(channel.values[0], (len(coordinate), channel.values.shape[1]))
        return value, np.zeros_like(value)
    i = np.searchsorted(channel.knots[1:-1], coordinate, side="right")
    slopes = np.diff(channel.values, axis=0) / np.diff(channel.knots)[:, None]
    return channel.values[i] + slopes[i] * (coordinate - channel.knots[i])[:, None], slopes[i]
