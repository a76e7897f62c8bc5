"""Several cases side by side, and where one overtakes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsesim.metrics.attributes import attributes
from sparsesim.report.plots import style
from sparsesim.report.plots.scale import plain_ticks, prefix, short, time_unit
from sparsesim.run import Run
from sparsesim.sim.steps import Floats

FEW_DECADES = 1e3
SERVED = ("ttft_s.p99", "tpot_s.p99", "output_tok_per_s", "goodput_per_s", "j_per_output_tok", "power_w")
STEPS = ("tok_per_s", "power_w", "step_s", "j_per_tok", "peak_memory_bytes")
"""Of runs that are steps back to back, where a prompt's tokens count in the rate as in the energy."""
FIGURES = tuple(dict.fromkeys((*SERVED, *STEPS)))


def figures_of(runs: Sequence[Run]) -> list[str]:
    """The figures that runs are judged by, of those that any of them has."""
    names = STEPS if all(figure_of(run.summary, "tok_per_s") is not None for run in runs) else FIGURES
    return [name for name in names if any(figure_of(run.summary, name) is not None for run in runs)]


def figure_of(summary: Mapping[str, Any], name: str) -> float | None:
    """A number of a summary by dotted name; None where there is none."""
    value: Any = summary
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def labelled(name: str) -> str:
    """A figure's name for readers: `ttft_s.p99` is `TTFT, p99`."""
    table = attributes("summary")
    if name in table:
        return table[name].label
    head, _, key = name.partition(".")
    return f"{table[head].label}, {key}"


def comparison_figure(runs: Sequence[Run]) -> Any:
    """A panel of bars per figure, a bar per run with its interval; the unit's line says which way is better."""
    names = figures_of(runs)
    titles = [style.folded(run.title) for run in runs]
    lines = max(title.count("\n") for title in titles) + 1
    columns = 2
    rows = max(-(-len(names) // columns), 1)
    made, axes = style.figure(rows, columns, rows * (0.75 + (0.15 + 0.12 * lines) * len(runs)))
    for axis, name in zip(axes.flat, names, strict=False):
        _bars(axis, runs, name)
        axis.set_yticks(range(len(runs)), titles, fontsize=style.SMALL if lines > 1 else None)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    for axis in axes[:, 1:].flat:
        axis.tick_params(axis="y", labelleft=False, length=0)
    return made


def _bars(axis: Any, runs: Sequence[Run], name: str) -> None:
    described = attributes("summary").get(name) or attributes("summary")[name.split(".")[0]]
    values = [figure_of(run.summary, name) for run in runs]
    largest = max(abs(v) for v in values if v is not None)
    factor, unit = time_unit(largest) if described.unit == "s" else _prefixed(largest, described.unit)
    for row, (run, value) in enumerate(zip(runs, values, strict=True)):
        if value is None:
            axis.text(0.0, row, " none", va="center", fontsize=style.SMALL, color=style.MUTED)
            continue
        axis.barh(row, value / factor, height=0.62, color=style.colour(row if len(runs) <= len(style.CASES) else 0))
        end = _whisker(axis, run, name, value, factor, row)
        axis.annotate(
            f"{value / factor:,.3g}" if value / factor < 1000 else f"{value / factor:,.0f}",
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=style.SMALL,
        )
    axis.set_ylim(len(runs) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.18)
    axis.set_xlim(left=0)
    hope = f" ({described.better} is better)" if described.better in ("lower", "higher") else ""
    style.labels(axis, x=unit + hope, title=labelled(name))


def _prefixed(largest: float, unit: str) -> tuple[float, str]:
    """A prefix where the unit begins with a symbol that takes one."""
    head, slash, rest = unit.partition("/")
    if head not in ("J", "W", "B"):
        return 1.0, unit
    factor, shown = prefix(largest, head)
    return factor, f"{shown}{slash}{rest}"


def _whisker(axis: Any, run: Run, name: str, value: float, factor: float, row: int) -> float:
    """Draw the interval where there is one; where text may begin."""
    interval = (run.summary.get("intervals") or {}).get(name)
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return value / factor
    low, high = interval["low"] / factor, interval["high"] / factor
    axis.plot([low, high], [row, row], color=style.INK, linewidth=1.0)
    axis.plot([low, high], [row, row], "|", color=style.INK, markersize=6)
    return float(max(high, value / factor))


def crossings(x: Floats, first: Floats, second: Floats) -> list[tuple[float, float]]:
    """Where two piecewise linear curves over the same points meet with a change of order, as (x, y)."""
    gap = np.asarray(first, float) - np.asarray(second, float)
    found = []
    for i in np.flatnonzero(gap[:-1] * gap[1:] < 0):
        share = gap[i] / (gap[i] - gap[i + 1])
        found.append((float(x[i] + share * (x[i + 1] - x[i])), float(first[i] + share * (first[i + 1] - first[i]))))
    return found


def crossover_figure(
    x: Floats, series: Mapping[str, Floats], x_label: str, y_label: str, logarithmic: bool = True
) -> Any:
    """One curve per case over a swept quantity, each named at its end; where the first two cross is marked.

    With `logarithmic` both axes are, and the crossing is found on them.
    """
    made, axes = style.figure(1, 1, 3.2)
    axis = axes[0, 0]
    for case, (name, y) in enumerate(series.items()):
        axis.plot(x, y, color=style.colour(case), linewidth=1.6, marker="o", markersize=3)
        end = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(
            name, (x[-1], y[-1]), color=style.colour(case), fontsize=style.SMALL, annotation_clip=False, **end
        )
    if logarithmic:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(x, [short(float(v)) for v in x], minor=False)
        axis.minorticks_off()
        values = np.concatenate([np.asarray(y, float) for y in series.values()])
        plain_ticks(axis.yaxis, few=float(values.max()) < FEW_DECADES * float(values.min()))
    for at, value in _meetings(x, list(series.values())[:2], logarithmic):
        axis.axvline(at, color=style.MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        place = {"xytext": (4, 4), "textcoords": "offset points", "va": "bottom", "color": style.MUTED}
        axis.plot(at, value, "o", color=style.INK, markersize=5, fillstyle="none")
        axis.annotate(
            f"crossover at {at:,.3g}" if at < 1000 else f"crossover at {at:,.0f}",
            (at, 0),
            xycoords=("data", "axes fraction"),
            fontsize=style.SMALL,
            **place,
        )
    style.labels(axis, x=x_label, y=y_label)
    return made


def _meetings(x: Floats, pair: Sequence[Floats], logarithmic: bool) -> list[tuple[float, float]]:
    if len(pair) < 2:
        return []
    if not logarithmic:
        return crossings(x, pair[0], pair[1])
    return [(10**a, 10**b) for a, b in crossings(np.log10(x), np.log10(pair[0]), np.log10(pair[1]))]
