"""Cases along a numeric axis: time and energy per token with a line for each of the others, and what they are made of.

The axes are read from the scenarios in the runs' manifests: whatever differs. The number that takes most values is the
abscissa; the other differences name the lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsesim.report.plots import style
from sparsesim.report.plots.comparison import crossings, figure_of
from sparsesim.report.plots.scale import plain_ticks, short
from sparsesim.run import Run

LEAST_POINTS = 3
"""Values of a number from which it is an axis."""
TICKS = 5
"""Labelled values of the abscissa."""
NARROW = 4.0
"""Range of values below which ticks are round numbers at even distances instead of 1, 2 and 5."""
LINES = 6
"""Lines up to which a panel stays readable."""
ENERGY = ("j_per_tok", "j_per_output_tok")
RATE = ("tok_per_s", "output_tok_per_s")
UNITS = {
    "context": "tokens of context",
    "batch": "sequences in the batch",
    "rate": "requests/s",
    "dp": "GPUs of a replica",
    "ep": "GPUs the experts are spread over",
    "density": "share of active neurons",
    "micro_batch": "sequences in a micro-batch",
}
_QUANTITY = re.compile(r"([-+0-9.eE]+) [A-Za-z]\S*")
"""A number with its unit, as manifests write quantities: one path has one unit throughout."""
WORTH = ("model", "deployment", "sparsity", "workload", "precision", "expert_load", "densities", "power")
"""Parts of a scenario that cases may differ in; titles and studies say nothing."""


@dataclass(frozen=True)
class Axis:
    """A number along which the runs were varied, and the runs of each line in its order."""

    path: str
    lines: Mapping[str, tuple[tuple[float, Run], ...]]

    @property
    def label(self) -> str:
        """With its unit."""
        return UNITS.get(self.path.rpartition(".")[2], self.path)


def axis_of(runs: Sequence[Run]) -> Axis | None:
    """The numeric axis of the runs; none where no number takes three values or lines would hide each other."""
    flat = [dict(_leaves(run.manifest.get("scenario", {}))) for run in runs]
    varied = [path for path in dict.fromkeys(p for one in flat for p in one) if len({_key(f, path) for f in flat}) > 1]
    numbers = {path: {f[path] for f in flat} for path in varied if all(_is_number(f.get(path)) for f in flat)}
    numbers = {path: values for path, values in numbers.items() if len(values) >= LEAST_POINTS and min(values) > 0}
    for path in sorted(numbers, key=lambda one: -len(numbers[one])):
        lines = _lines(flat, runs, path, [other for other in varied if not _follows(flat, other, path)])
        whole = all(len({x for x, _ in points}) == len(points) >= LEAST_POINTS for points in lines.values())
        if whole and len(lines) <= LINES:
            return Axis(path, lines)
    return None


def _lines(
    flat: Sequence[Mapping[str, Any]], runs: Sequence[Run], path: str, others: Sequence[str]
) -> dict[str, tuple[tuple[float, Run], ...]]:
    """The runs by the values of the other paths, each line in the order of `path`."""
    lines: dict[str, list[tuple[float, Run]]] = {}
    for one, run in zip(flat, runs, strict=True):
        lines.setdefault(_name(one, others), []).append((float(one[path]), run))
    return {name: tuple(sorted(points, key=lambda point: point[0])) for name, points in lines.items()}


def _follows(flat: Sequence[Mapping[str, Any]], other: str, path: str) -> bool:
    """Whether a path's value is given by another's: itself, or a second number varied in step with it."""
    return len({(_key(f, path), _key(f, other)) for f in flat}) == len({_key(f, path) for f in flat})


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, item in values.items():
            if path or key in WORTH:
                yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(values, str) and (found := _QUANTITY.fullmatch(values)):
        yield path, float(found[1])
    else:
        yield path, values if not isinstance(values, list) else str(values)


def _key(flat: Mapping[str, Any], path: str) -> str:
    return repr(flat.get(path))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(flat: Mapping[str, Any], paths: Sequence[str]) -> str:
    """What sets a line apart: the values alone of one difference, else the last words of their keys with them."""
    found = {path: flat[path] for path in paths if flat.get(path) is not None}
    if not found:
        return "dense" if paths else ""
    words = [str(v) if isinstance(v, str) else f"{p.rpartition('.')[2]} {v:g}" for p, v in found.items()]
    return ", ".join(dict.fromkeys(words))


def axis_figure(axis: Axis) -> Any:
    """Time, energy and peak memory over the axis; a single line gets its energy by component beneath."""
    trained = all("peak_memory_bytes" in run.summary for points in axis.lines.values() for _, run in points)
    single = len(axis.lines) == 1 and not trained
    made, axes = style.figure(2 if single else 1, 3 if trained else 2, 5.6 if single else 3.2)
    _panel(axes[0, 0], axis, "Time per token", "us", lambda run: _first(run, RATE, lambda v: 1e6 / v))
    _panel(axes[0, 1], axis, "Energy per token", "mJ", lambda run: _first(run, ENERGY, lambda v: 1e3 * v))
    if trained:
        _panel(
            axes[0, 2], axis, "Peak memory", "GB", lambda run: _first(run, ("peak_memory_bytes",), lambda v: v / 1e9)
        )
    if single:
        points = next(iter(axis.lines.values()))
        _stacked(axes[1, 0], axis, [(x, _energy(run)) for x, run in points], "Energy by component", style.COMPONENTS)
        _stacked(axes[1, 1], axis, [(x, _bound(run)) for x, run in points], "Time by what bounds it", style.BOUNDS)
    return made


def _first(run: Run, names: Sequence[str], scaled: Any) -> float | None:
    values = (figure_of(run.summary, name) for name in names)
    return next((scaled(value) for value in values if value), None)


def _panel(axis: Any, of: Axis, title: str, unit: str, value: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    curves = {name: [(x, value(run)) for x, run in points] for name, points in of.lines.items()}
    known = {name: [(x, y) for x, y in points if y] for name, points in curves.items()}
    for case, (name, points) in enumerate(known.items()):
        if points:
            x, y = zip(*points, strict=True)
            axis.plot(x, y, color=style.colour(case), linewidth=1.6, marker="o", markersize=3, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    _ticks(axis, sorted({x for points in known.values() for x, _ in points}))
    values = [y for points in known.values() for _, y in points]
    plain_ticks(axis.yaxis, few=max(values, default=1.0) < 1e2 * min(values, default=1.0))
    if max(values, default=1.0) < NARROW * min(values, default=1.0):
        axis.yaxis.set_major_locator(MaxNLocator(TICKS))
    _mark(axis, list(known.values()))
    style.labels(axis, x=of.label, y=unit, title=title)
    if len(known) > 1:
        style.legend(axis, loc="best")


def _ticks(axis: Any, x: Sequence[float]) -> None:
    shown = x if len(x) <= TICKS else x[:: -(-len(x) // TICKS)]
    axis.set_xticks(shown, [short(v) if v >= 1 else f"{v:.2g}" for v in shown], minor=False)
    axis.minorticks_off()


def _mark(axis: Any, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """A ring and the abscissa where a line crosses the first one."""
    first = dict(lines[0]) if lines else {}
    own = 0
    for other in lines[1:]:
        for at, value in meetings(first, dict(other)):
            axis.plot(at, value, "o", color=style.INK, markersize=6, fillstyle="none")
            text = f"{at:,.0f}" if at >= 1 else f"{at:.2g}"
            offset = (5, -10 - 9 * (own % 2))
            axis.annotate(
                text, (at, value), xytext=offset, textcoords="offset points", fontsize=style.SMALL, color=style.INK
            )
            own += 1


def meetings(first: Mapping[float, float], other: Mapping[float, float]) -> list[tuple[float, float]]:
    """Where two curves over common abscissae cross, interpolated on logarithms of both."""
    x = sorted(set(first) & set(other))
    if len(x) < 2:
        return []
    logs = [np.log([curve[v] for v in x]) for curve in (first, other)]
    return [(float(np.exp(a)), float(np.exp(b))) for a, b in crossings(np.log(x), *logs)]


def _energy(run: Run) -> dict[str, float]:
    return {name: float(value) for name, value in (run.summary.get("energy_by_component_j") or {}).items()}


def _bound(run: Run) -> dict[str, float]:
    """Shares of the first phase's time."""
    bound = run.summary.get("bound") or {}
    phases = [shares for shares in bound.values() if isinstance(shares, Mapping)]
    return {name: float(value) for name, value in phases[0].items()} if phases else {}


def _stacked(
    axis: Any, of: Axis, points: Sequence[tuple[float, Mapping[str, float]]], title: str, colours: Mapping[str, str]
) -> None:
    """Shares in percent over the axis, filled from below."""
    names = [name for name in colours if any(parts.get(name, 0.0) > 0 for _, parts in points)]
    if not names:
        axis.set_visible(False)
        return
    x = [at for at, _ in points]
    whole = [sum(parts.values()) or 1.0 for _, parts in points]
    shares = [[100 * parts.get(name, 0.0) / w for (_, parts), w in zip(points, whole, strict=True)] for name in names]
    axis.stackplot(x, shares, labels=names, colors=[colours[name] for name in names], linewidth=0)
    axis.set_xscale("log")
    _ticks(axis, x)
    axis.set_ylim(0, 100)
    axis.margins(x=0)
    style.labels(axis, x=of.label, y="%", title=title)
    axis.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=style.SMALL, loc="lower right")
