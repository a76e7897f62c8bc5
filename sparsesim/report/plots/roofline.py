"""Where each op stands under the roofs of its device, and which ops take the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.report.plots import style
from sparsesim.report.plots.scale import plain_ticks, time_unit
from sparsesim.run import Run
from sparsesim.sim.records import Columns

NAMED = 5
"""Ops named in a picture: the ones that take most of the time."""
NEAR_DECADES = 0.2
"""Dots nearer than this share a label."""
BARS = 10
"""Parts shown as bars; the others are summed up."""


def roofline_figure(run: Run) -> Any:
    """One panel per phase: arithmetic intensity against FLOP/s; a dot's area is its share of the phase's time."""
    ops = run.tables["ops"]
    phases = list(dict.fromkeys(ops["phase"].tolist()))
    made, axes = style.figure(1, len(phases), 3.4, sharey=True)
    for axis, phase in zip(axes[0], phases, strict=True):
        _phase(axis, {name: column[ops["phase"] == phase] for name, column in ops.items()}, str(phase))
    axes[0, 0].set_ylabel("TFLOP/s of one device", fontsize=style.SMALL)
    bounds = [name for name in style.BOUNDS if name in set(ops["bound"].tolist())]
    _bound_legend(made, bounds)
    return made


def _bound_legend(made: Any, bounds: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], color=style.BOUNDS[name], marker="o", linestyle="", markersize=5) for name in bounds]
    texts = [f"bound by {name}" for name in bounds]
    made.legend(dots, texts, loc="outside lower center", ncols=4, frameon=False, fontsize=style.SMALL)


def _phase(axis: Any, ops: Columns, phase: str) -> None:
    flop, moved, time = (np.asarray(ops[name], dtype=np.float64) for name in ("flop", "hbm_bytes", "time_s"))
    shown = (flop > 0) & (moved > 0) & (time > 0)
    intensity, rate = flop[shown] / moved[shown], flop[shown] / time[shown] / 1e12
    share = time[shown] / time.sum()
    colours = [style.BOUNDS[str(bound)] for bound in ops["bound"][shown]]
    axis.scatter(
        intensity, rate, s=8 + 500 * share, c=colours, alpha=0.75, linewidths=0.5, edgecolors="white", zorder=3
    )
    span = (min(float(intensity.min(initial=1.0)) / 3, 0.3), max(float(intensity.max(initial=1.0)) * 3, 3e3))
    _roofs(axis, ops, shown, span)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(*span)
    axis.set_ylim(bottom=min(float(rate.min(initial=1.0)) / 4, axis.get_ylim()[0]))
    axis.minorticks_off()
    for side in (axis.xaxis, axis.yaxis):
        plain_ticks(side, few=False)
    _name(axis, ops["part"][shown], intensity, rate, share)
    hidden = 100 * (1 - float(share.sum()))
    style.labels(axis, x="FLOP per byte of device memory", title=phase)
    if hidden > 0.5:
        axis.set_title(
            f"{hidden:.2g} % of the time without FLOP", fontsize=style.SMALL - 1, color=style.MUTED, loc="right"
        )


def _roofs(axis: Any, ops: Columns, shown: npt.NDArray[np.bool_], span: tuple[float, float]) -> None:
    """The memory's slope and one ceiling per dtype in use."""
    bandwidth = float(np.max(ops["peak_bytes_per_s"]))
    x = np.geomspace(*span, 200)
    for dtype in dict.fromkeys(ops["dtype"][shown].tolist()):
        peak = float(np.max(np.asarray(ops["peak_flop_per_s"], float)[ops["dtype"] == dtype]))
        axis.plot(x, np.minimum(x * bandwidth, peak) / 1e12, color=style.INK, linewidth=1.0, zorder=2)
        place = {"xytext": (-2, 2), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axis.annotate(f"{dtype} {peak / 1e12:.0f} TFLOP/s", (span[1], peak / 1e12), fontsize=style.SMALL - 1, **place)
    text = {"fontsize": style.SMALL - 1, "ha": "right", "va": "bottom"}
    at = (span[0] * (peak_intensity(ops, bandwidth) / span[0]) ** 0.5, bandwidth)
    axis.annotate(
        f"{bandwidth / 1e12:.3g} TB/s",
        (at[0], at[0] * bandwidth / 1e12),
        xytext=(-4, 2),
        textcoords="offset points",
        **text,
    )


def peak_intensity(ops: Columns, bandwidth: float) -> float:
    """FLOP per byte at the ridge of the highest roof."""
    return float(np.max(ops["peak_flop_per_s"])) / bandwidth


def _name(axis: Any, parts: Any, intensity: Any, rate: Any, share: Any) -> None:
    """Numbers at the dots that take most of the time, explained in a corner that the roofs leave free."""
    order = np.argsort(-share)[:NAMED]
    spots: list[tuple[int, list[str]]] = []
    for number, row in enumerate(order, start=1):
        near = next((names for other, names in spots if _close(intensity, rate, row, other)), None)
        if near is None:
            spots.append((int(row), [str(number)]))
        else:
            near.append(str(number))
    for row, numbers in spots:
        radius = (8 + 500 * share[row]) ** 0.5 / 2
        place = {"xytext": (0, -radius - 1), "textcoords": "offset points", "ha": "center", "va": "top"}
        axis.annotate(", ".join(numbers), (intensity[row], rate[row]), fontsize=style.SMALL - 1, zorder=4, **place)
    key = "\n".join(f"{n}  {parts[row]}  {100 * share[row]:.0f} %" for n, row in enumerate(order, start=1))
    place = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "multialignment": "left"}
    axis.text(0.98, 0.03, key, fontsize=style.SMALL - 1, **place)


def _close(intensity: Any, rate: Any, first: int, second: int) -> bool:
    """Whether two dots lie near each other, so that one label stands for both."""
    return bool(max(abs(np.log10(v[first] / v[second])) for v in (intensity, rate)) < NEAR_DECADES)


def ops_figure(run: Run) -> Any:
    """Bars of the time of each part of the model in one step, by phase and by what bounds them."""
    ops = run.tables["ops"]
    phases = list(dict.fromkeys(ops["phase"].tolist()))
    made, axes = style.figure(1, len(phases), 1.1 + 0.2 * (BARS + 1))
    for axis, phase in zip(axes[0], phases, strict=True):
        _bars(axis, {name: column[ops["phase"] == phase] for name, column in ops.items()}, str(phase))
    _bound_legend(made, [name for name in style.BOUNDS if name in set(ops["bound"].tolist())])
    return made


def _bars(axis: Any, ops: Columns, phase: str) -> None:
    time, order = _by_part(ops)
    second, unit = time_unit(sum(time[p][0] for p in order))
    names = order[:BARS]
    rest = sum(time[part][0] for part in order[BARS:])
    bars = [(part, *time[part]) for part in names] + ([("others", rest, "")] if rest > 0 else [])
    colours = [style.BOUNDS.get(bound, style.FAINT) for _, _, bound in bars]
    axis.barh([b[0] for b in bars], [b[1] / second for b in bars], color=colours, height=0.7)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    for row, (_, seconds, _) in enumerate(bars):
        axis.annotate(
            f"{seconds / second:.3g}",
            (seconds / second, row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=style.SMALL - 1,
        )
    axis.margins(x=0.15)
    style.labels(axis, x=f"{unit} per step, one device", title=phase)


def _by_part(ops: Columns) -> tuple[dict[str, tuple[float, str]], list[str]]:
    """Seconds of each part and what bounds the op that takes most of them; parts by falling time."""
    found: dict[str, tuple[float, str]] = {}
    longest: dict[str, float] = {}
    for part, seconds, bound in zip(ops["part"].tolist(), ops["time_s"].tolist(), ops["bound"].tolist(), strict=True):
        total, kept = found.get(part, (0.0, bound))
        if seconds > longest.get(part, 0.0):
            longest[part], kept = seconds, bound
        found[part] = (total + seconds, kept)
    return found, sorted(found, key=lambda part: -found[part][0])
