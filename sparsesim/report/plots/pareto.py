"""The picture of a plan: what every candidate costs, how long a request takes on it, and who is in front."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsesim.report.plots import style
from sparsesim.report.plots.scale import plain_ticks, time_unit
from sparsesim.study.planning.search import Plan

DRAWN = 4000
"""Screened candidates drawn at most, evenly picked: more dots are not told apart."""
NAMED = 3
"""Finalists named in the picture."""


def pareto_figure(plan: Plan) -> Any:
    """Two panels over money (devices without a price): mean end-to-end time, and energy per output token.

    Small dots were screened only, pools of prefill and decode in a colour of their own; a large one is filled where
    the finalist met the SLO, and the winner is ringed.
    """
    made, axes = style.figure(1, 2, 3.3)
    c = plan.search.candidates
    money = "cost_per_mtok" if "cost_per_mtok" in c.objectives else "devices"
    factor, unit = time_unit(float(np.median(c.objectives["e2e_s"])))
    panels = (("e2e_s", f"end to end, mean ({unit})", factor), ("j_per_output_tok", "devices' energy (J/tok)", 1.0))
    for axis, (name, label, scale) in zip(axes[0], panels, strict=True):
        _panel(axis, plan, money, name, scale)
        style.labels(axis, x="cost (USD/Mtok)" if money == "cost_per_mtok" else "devices", y=label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    key = made.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=style.SMALL)
    for handle in key.legend_handles:
        handle.set_markersize(max(handle.get_markersize(), 5))
    return made


def _panel(axis: Any, plan: Plan, money: str, name: str, scale: float) -> None:
    c = plan.search.candidates
    alive = np.flatnonzero(~plan.dead)
    rows = alive[:: max(len(alive) // DRAWN, 1)]
    likely = plan.search.ratio()[rows] <= 1
    pooled = c.prefill_replicas[rows] > 0
    dots = [(~likely, style.FAINT, "predicted to miss the SLO"), (likely & ~pooled, style.SKY, "screened")]
    dots += [(likely & pooled, style.GREEN, "screened, pools")] if pooled.any() else []
    for mask, colour, label in dots:
        x, y = c.objectives[money][rows[mask]], c.objectives[name][rows[mask]] / scale
        axis.plot(x, y, "o", markersize=2.5, color=colour, label=label, markeredgewidth=0, zorder=2)
    front = plan.front
    axis.plot(
        c.objectives[money][front], c.objectives[name][front] / scale, "_", color=style.MUTED, label="Pareto front",
        markersize=9, zorder=3,
    )  # fmt: skip
    for met, fill, label in ((True, style.BLUE, "simulated, met"), (False, "white", "simulated, missed")):
        own = [one for one in plan.search.done if one.met is met]
        if own:
            x = np.array([one.objectives[money] for one in own])
            y = np.array([one.objectives[name] for one in own]) / scale
            axis.plot(x, y, "o", markersize=5, color=style.BLUE, markerfacecolor=fill, label=label, zorder=4)
    if plan.winner is not None:
        at = (plan.winner.objectives[money], plan.winner.objectives[name] / scale)
        axis.plot(*at, "o", markersize=10, color=style.VERMILION, fillstyle="none", label="chosen", zorder=5)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for side in (axis.xaxis, axis.yaxis):
        plain_ticks(side)
