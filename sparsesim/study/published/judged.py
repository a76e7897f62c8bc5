"""A measured figure with its prediction, and groups of them as error rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsesim.study.validate import errors


@dataclass(frozen=True, slots=True)
class Judged:
    """One figure of one published row; `half_width` is that of the 90 % interval in log."""

    group: str
    quantity: str
    unit: str
    name: str
    measured: float
    predicted: float
    half_width: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def inside(self) -> bool:
        """Whether the interval holds the measured figure."""
        return abs(math.log(self.ratio)) <= self.half_width


def table(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """One row per group and quantity: n, MAPE, median, 90th percentile, bias, share inside, median half-width (%)."""
    keys = list(dict.fromkeys((row.group, row.quantity) for row in rows))
    return [
        _row(group, quantity, [r for r in rows if (r.group, r.quantity) == (group, quantity)])
        for group, quantity in keys
    ]


def _row(group: str, quantity: str, rows: Sequence[Judged]) -> dict[str, Any]:
    predicted, measured, half = (
        np.array([getattr(r, n) for r in rows]) for n in ("predicted", "measured", "half_width")
    )
    found = errors(predicted, measured, predicted * np.exp(-half), predicted * np.exp(half))
    return {
        "group": group,
        "quantity": quantity,
        "n": len(rows),
        **found,
        "half_width": 100 * float(np.median(np.expm1(half))),
    }
