"""How long requests waited: the distribution of each latency with its SLO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsesim.metrics.columns import floats
from sparsesim.metrics.latency import finished
from sparsesim.report.plots import style
from sparsesim.report.plots.scale import plain_ticks, time_unit
from sparsesim.run import Run
from sparsesim.sim.steps import Floats

PANELS = (("ttft_s", "Time to first token"), ("tpot_s", "Time per output token"), ("e2e_s", "End to end"))
POINTS = 400
"""Points a curve is drawn with; more is not seen."""
MARKED = (50, 90, 99)
"""Percentiles marked on the curve of a single run."""
FEW_DECADES = 30.0
"""Range of a logarithmic axis up to which 2 and 5 get ticks as well; a panel is narrow."""
LOG_FROM = 30.0
"""Ratio of the 99.5th percentile to the 5th from which an axis is logarithmic."""


def latency_figure(runs: Sequence[Run]) -> Any:
    """One panel per latency, one curve per run: the share of finished requests that were at least as fast."""
    made, axes = style.figure(1, len(PANELS), 2.7)
    for axis, (name, title) in zip(axes[0], PANELS, strict=True):
        values = [_finished(run, name) for run in runs]
        _panel(axis, values, [run.title for run in runs], title, _limit(runs[0], name))
    axes[0, 0].set_ylabel("share of requests (%)", fontsize=style.SMALL)
    if len(runs) > 1:
        handles, names = axes[0, 0].get_legend_handles_labels()
        made.legend(
            handles, names, loc="outside lower center", ncols=min(len(runs), 4), frameon=False, fontsize=style.SMALL
        )
    return made


def _finished(run: Run, name: str) -> Floats:
    """Of the finished requests that arrived after the warm-up, ascending."""
    requests = run.tables["requests"]
    kept = finished(requests) & (floats(requests, "arrival_s") >= run.warm_up_s)
    values = floats(requests, name)[kept]
    return np.sort(values[np.isfinite(values)])


def _limit(run: Run, name: str) -> float | None:
    terms = (run.summary.get("slo") or {}).get("terms", {})
    return float(terms[name]["limit"]) if name in terms else None


def _panel(axis: Any, values: Sequence[Floats], names: Sequence[str], title: str, limit: float | None) -> None:
    there = np.concatenate([*values, [limit] if limit else []])
    style.labels(axis, title=title)
    axis.set_ylim(0, 102)
    if len(there) == 0:
        axis.text(0.5, 0.5, "nothing finished", transform=axis.transAxes, ha="center", fontsize=style.SMALL)
        return
    low, high = np.percentile(there, [5, 99.5])
    second, unit = time_unit(float(high))
    logarithmic = high > LOG_FROM * max(low, 1e-12)
    for case, (own, name) in enumerate(zip(values, names, strict=True)):
        _curve(axis, own / second, style.colour(case), name, marked=len(values) == 1)
    if logarithmic:
        axis.set_xscale("log")
        least = float(np.percentile(there[there > 0], 1))
        axis.set_xlim(least / second / 1.3, float(max(high, limit or 0.0)) / second * 1.3)
        axis.minorticks_off()
        plain_ticks(axis.xaxis, few=high < FEW_DECADES * least)
    else:
        axis.set_xlim(0, float(max(high, limit or 0.0)) / second * 1.05)
    if limit is not None:
        _slo(axis, limit / second, values, limit)
    style.labels(axis, x=f"{unit}{', log scale' if logarithmic else ''}{_percentiles(values, second)}")


def _curve(axis: Any, values: Floats, colour: str, name: str, marked: bool) -> None:
    if len(values) == 0:
        return
    shares = np.linspace(0, 100, POINTS + 1)
    axis.plot(np.percentile(values, shares), shares, color=colour, linewidth=1.5, label=name)
    if marked:
        axis.plot(np.percentile(values, MARKED), MARKED, "o", color=colour, markersize=3.5)


def _percentiles(values: Sequence[Floats], second: float) -> str:
    """The marked percentiles in words, below the axis of a single run."""
    if len(values) != 1 or len(values[0]) == 0:
        return ""
    numbers = np.percentile(values[0], MARKED) / second
    return "\n" + "   ".join(f"p{p} {at:.3g}" for p, at in zip(MARKED, numbers, strict=True))


def _slo(axis: Any, at: float, values: Sequence[Floats], limit: float) -> None:
    """The limit as a line, its label on the side that has room."""
    axis.axvline(at, color=style.VERMILION, linewidth=1.0, linestyle=(0, (4, 2)))
    within = [100 * float(np.mean(own <= limit)) for own in values if len(own)]
    text = f"SLO {at:,g}" + (f"\n{within[0]:.3g} % within" if len(values) == 1 and within else "")
    low, high = axis.get_xlim()
    share = np.log(at / low) / np.log(high / low) if axis.get_xscale() == "log" else (at - low) / (high - low)
    left = share > 0.5
    place = {"xytext": (-3 if left else 3, 0), "textcoords": "offset points", "ha": "right" if left else "left"}
    ink = {"fontsize": style.SMALL - 1, "color": style.VERMILION}
    below = not within or min(within) > 50  # the curve passes the line high up, so the room is below it
    axis.annotate(text, (at, 3 if below else 98), **place, **ink, va="bottom" if below else "top")
