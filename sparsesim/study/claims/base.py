"""A published figure beside sparsesim's own, and the scenarios' cases they are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.closed_form import estimate
from sparsesim.run import Run
from sparsesim.scenario import Scenario
from sparsesim.study.cases import cases

FOLDER = "claims"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what it is, the published value (none: the source gives no number), ours, and how near it must be.

    `within` is the tolerance that the tests hold, relative, in points for percentages; none where a gap is known and
    said in `why`.
    """

    figure: str
    published: float | None
    found: float
    unit: str = ""
    within: float | None = None
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Ours over the published, relative; of percentages ours less the published, in points."""
        if self.published is None:
            return None
        if self.unit == "%":
            return self.found - self.published
        return self.found / self.published - 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source says, the scenarios that ask it, and the rows that answer."""

    name: str
    source: str
    says: str
    scenarios: tuple[str, ...]
    rows: Callable[[], Sequence[Row]]


@lru_cache(maxsize=64)
def answers(name: str) -> tuple[tuple[Mapping[str, Any], Run], ...]:
    """What each case of scenarios/claims/NAME.yaml sets, with its estimate."""
    return tuple((case.set, estimate(case.scenario)) for case in cases(Scenario.load(f"{FOLDER}/{name}")))


def curve(name: str, figure: str, axis: str, **fixed: Any) -> tuple[Floats, Floats]:
    """A summary figure along an axis, for the cases whose other axes (by last word) have the given values."""
    points = [
        (_number(settings[axis]), float(run.summary[figure]))
        for settings, run in answers(name)
        if all(_value(settings, key) == value for key, value in fixed.items())
    ]
    x, y = zip(*sorted(points), strict=True)
    return np.array(x), np.array(y)


def figure(name: str, quantity: str, **fixed: Any) -> float:
    """A summary figure of the one case with the given values."""
    found = [
        float(run.summary[quantity])
        for settings, run in answers(name)
        if all(_value(settings, key) == value for key, value in fixed.items())
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} cases of {name} have {fixed}")
    return found[0]


def _value(settings: Mapping[str, Any], key: str) -> Any:
    return next(value for path, value in settings.items() if path.rpartition(".")[2] == key)


def _number(value: Any) -> float:
    return float(str(value).partition(" ")[0])


def crossing(x: Floats, first: Floats, second: Floats) -> float:
    """Abscissa from which the second curve is below the first for good, on logarithms; inf where it never is."""
    gap = np.log(np.asarray(second)) - np.log(np.asarray(first))
    if gap[-1] >= 0:
        return math.inf
    above = np.flatnonzero(gap >= 0)
    if not len(above):
        return float(x[0])
    i = above[-1]
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp(np.log(x[i]) + share * (np.log(x[i + 1]) - np.log(x[i]))))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| figure | published | sparsesim | difference | held to | why |", "|---|---|---|---|---|---|"]
    for row in rows:
        published = "" if row.published is None else _shown(row.published, row.unit)
        scale, word = (1.0, "points") if row.unit == "%" else (100.0, "%")
        difference = "" if row.difference is None else f"{scale * row.difference:+.1f} {word}"
        held = "" if row.within is None else f"{scale * row.within:g} {word}"
        cells = (row.figure, published, _shown(row.found, row.unit), difference, held, row.why)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(value: float, unit: str) -> str:
    if math.isinf(value):
        return "none"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()
