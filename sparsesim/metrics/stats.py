"""How far a simulated figure may be off by chance: replications, or batch means inside one long run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sparsesim.sim.steps import Floats

LEVEL = 0.90
"""Confidence level of the intervals of chance."""
BATCHES = 20
"""Batches of batch means: 20 to 30 is the usual advice (Law, Simulation Modeling and Analysis, 9.5.3)."""


def mean_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the mean of independent numbers; infinite for fewer than two."""
    from scipy.special import stdtrit  # the inverse of Student's t; scipy.stats would take 0.7 s to import

    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < 2:
        return -math.inf, math.inf
    half = float(stdtrit(count - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


def batch_means(values: Floats, batches: int = BATCHES) -> tuple[float, float] | None:
    """Interval of the mean of correlated numbers in their order; None where batches would hold fewer than
    10.
    """
    values = values[np.isfinite(values)]
    size = len(values) // batches
    if size < 10:
        return None
    return mean_interval(values[: size * batches].reshape(batches, size).mean(axis=1))


def flat(summary: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a summary by dotted name."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{above}{name}", float(value)


def replication_intervals(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Interval of every figure that all replications have."""
    columns = [dict(flat(summary)) for summary in summaries]
    common = [name for name in columns[0] if all(name in column for column in columns)]
    found = {}
    for name in common:
        low, high = mean_interval([column[name] for column in columns])
        found[name] = {"low": low, "high": high, "level": LEVEL, "source": f"{len(summaries)} replications"}
    return found


def mean_summary(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures' means over replications, counts included; what is no number is the first's."""
    first = summaries[0]
    return {name: _mean([summary.get(name) for summary in summaries]) for name in first}


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        names = {name: None for value in values if isinstance(value, Mapping) for name in value}
        return {name: _mean([value.get(name) for value in values if isinstance(value, Mapping)]) for name in names}
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if isinstance(first, bool) or not numbers:
        return first
    return float(np.mean(numbers))
