"""The Pareto front of a plan's candidates: money, energy and time."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from sparsesim.study.planning.finalists import Search


def front(search: Search, dead: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Rows that are best in cost, energy or time for what they give up in the others, by rising cost."""
    c = search.candidates
    likely = np.flatnonzero(~dead & (search.ratio() <= 1))
    money = c.objectives.get("cost_per_mtok", c.objectives["devices"])
    points = np.stack([money, c.objectives["j_per_output_tok"], c.objectives["e2e_s"]], axis=-1)[likely]
    points = np.round(points / np.maximum(points.min(axis=0, initial=np.inf), 1e-300), 6)
    order = np.lexsort(points.T[::-1])
    return likely[order[undominated(points[order, 1].tolist(), points[order, 2].tolist())]]


def undominated(energy: list[float], seconds: list[float]) -> list[int]:
    """Places that no earlier one is at most equal to in both: with money rising, the front of all three.

    The best so far are kept as a staircase, energy rising and time falling.
    """
    stairs: list[tuple[float, float]] = []
    kept = []
    for place, point in enumerate(zip(energy, seconds, strict=True)):
        above = bisect_right(stairs, (point[0], math.inf))
        if above and stairs[above - 1][1] <= point[1]:
            continue
        kept.append(place)
        last = above
        while last < len(stairs) and stairs[last][1] >= point[1]:
            last += 1
        first = above - 1 if above and stairs[above - 1][0] == point[0] else above
        stairs[first:last] = [point]
    return kept
