"""Amounts inside the measured window, and time-weighted means, from rows that spread theirs evenly over an
interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsesim.sim.steps import Floats


@dataclass(frozen=True, slots=True)
class Window:
    """The measured part of a run, after the warm-up."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Never below 0."""
        return max(self.end_s - self.start_s, 0.0)

    def shares(self, start_s: Floats, end_s: Floats) -> Floats:
        """The share of each interval that lies inside; an instant lies inside or not."""
        length = end_s - start_s
        inside = np.clip(np.minimum(end_s, self.end_s) - np.maximum(start_s, self.start_s), 0.0, None)
        instant = ((start_s >= self.start_s) & (start_s <= self.end_s)).astype(np.float64)
        return np.asarray(np.divide(inside, length, out=instant, where=length > 0))


def binned(start_s: Floats, end_s: Floats, amounts: Floats, edges: Floats) -> Floats:
    """Amounts of even intervals summed into bins, [bins]; what the bins cover is conserved.

    The amount up to t is the sum over the intervals of a ramp from start to end, so it is piecewise linear
    with its corners at the starts and ends: sorted, summed up and interpolated at the edges. Instants are
    kinks of no width.
    """
    if len(start_s) == 0:
        return np.zeros(len(edges) - 1)
    length = end_s - start_s
    wide = length > 0
    rate = amounts[wide] / length[wide]
    corners = np.concatenate([start_s[wide], end_s[wide]])
    slopes = np.concatenate([rate, -rate])
    order = np.argsort(corners, kind="stable")
    at, slope = corners[order], np.cumsum(slopes[order])
    reached = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))]) if len(at) else np.zeros(0)
    total = np.interp(edges, at, reached) if len(at) else np.zeros(len(edges))
    counts = np.histogram(start_s[~wide], bins=edges, weights=amounts[~wide])[0]
    return np.asarray(np.diff(total) + counts)
