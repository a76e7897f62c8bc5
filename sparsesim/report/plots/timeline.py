"""What happened over time: power by component, requests in the batch and waiting, KV cache in use."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsesim.report.plots import style
from sparsesim.report.plots.scale import prefix, time_unit
from sparsesim.run import Run
from sparsesim.sim.steps import Floats

Series = dict[str, Floats]
LINES = {"running": (style.BLUE, "running"), "waiting": (style.VERMILION, "waiting")}


def timeline_figure(run: Run) -> Any:
    """Three panels over one time axis, of the first replication; the warm-up is shaded."""
    warm_up_s = run.warm_up_s
    table = run.tables["power"]
    rows = table["replication"] == 0
    power = {name: np.asarray(column[rows], dtype=np.float64) for name, column in table.items()}
    made, axes = style.figure(3, 1, 4.6, sharex=True, height_ratios=(3, 2, 2))
    second, unit = time_unit(float(power["end_s"][-1]))
    edges = np.append(power["start_s"], power["end_s"][-1]) / second
    _power(axes[0, 0], edges, power)
    _batch(axes[1, 0], edges, power)
    _cache(axes[2, 0], edges, power, _capacity(run))
    for axis in axes.flat:
        if warm_up_s > 0:
            axis.axvspan(0, min(warm_up_s / second, edges[-1]), color="white", alpha=0.6, linewidth=0, zorder=3)
        axis.set_xlim(0, edges[-1])
    if warm_up_s > 0:
        _note_warm_up(axes[0, 0], min(warm_up_s / second, edges[-1]))
    style.labels(axes[2, 0], x=f"time ({unit})", y="KV blocks\nin use" + (" (%)" if _capacity(run) else ""))
    return made


def _note_warm_up(axis: Any, until: float) -> None:
    text = {"fontsize": style.SMALL - 1, "color": style.MUTED, "va": "top", "xycoords": ("data", "axes fraction")}
    axis.annotate("warm-up, not counted", (until, 0.98), xytext=(-3, 0), textcoords="offset points", ha="right", **text)


def _power(axis: Any, edges: Any, power: Series) -> None:
    names = [name for name in style.COMPONENTS if f"{name}_w" in power and np.any(power[f"{name}_w"] > 0)]
    factor, unit = prefix(float(np.max(power["total_w"])), "W")
    low = np.zeros(len(edges) - 1)
    for name in sorted(names, key=list(reversed(style.COMPONENTS)).index):
        high = low + power[f"{name}_w"] / factor
        steps = (np.append(values, values[-1]) for values in (low, high))
        axis.fill_between(edges, *steps, step="post", color=style.COMPONENTS[name], label=name, linewidth=0)
        low = high
    axis.set_ylim(0, 1.05 * float(np.max(low)))
    style.labels(axis, y=f"power ({unit})")
    handles, found = axis.get_legend_handles_labels()
    where = {"loc": "lower right", "ncols": len(names), "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
    axis.legend(handles[::-1], found[::-1], frameon=False, fontsize=style.SMALL, handlelength=1.0, **where)


def _batch(axis: Any, edges: Any, power: Series) -> None:
    for name, (colour, label) in LINES.items():
        _steps(axis, edges, power[name], colour, label)
    axis.set_ylim(bottom=0)
    style.labels(axis, y="requests")
    style.legend(axis, loc="lower right", ncols=2, bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


def _capacity(run: Run) -> float:
    """KV blocks of all replicas; 0 where unknown."""
    return float((run.summary.get("kv_use") or {}).get("blocks") or 0.0)


def _cache(axis: Any, edges: Any, power: Series, capacity: float) -> None:
    share = power["kv_blocks"] * (100.0 / capacity if capacity else 1.0)
    _steps(axis, edges, share, style.GREEN, "in use")
    axis.set_ylim(0, max(1.1 * float(share.max()), 1e-9))


def _steps(axis: Any, edges: Floats, values: Floats, colour: str, label: str) -> None:
    """Means over bins as a line of steps (matplotlib's own `stairs` takes far longer)."""
    axis.plot(edges, np.append(values, values[-1]), drawstyle="steps-post", color=colour, label=label, linewidth=1.0)
