"""Where the joules went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsesim.report.plots import style
from sparsesim.report.plots.scale import prefix
from sparsesim.run import Run

WRITTEN_FROM = 0.06
"""Share of the longest bar from which a component's figure is written into it."""


def energy_figure(runs: Sequence[Run]) -> Any:
    """One stacked bar per run: joules per output token by component; devices only."""
    made, axes = style.figure(1, 1, 1.0 + 0.42 * len(runs))
    axis = axes[0, 0]
    parts = [_per_token(run) for run in runs]
    totals = [sum(part.values()) for part in parts]
    colours = _colours(parts)
    factor, unit = prefix(max(totals, default=0.0), "J")
    longest = max(totals, default=0.0) / factor
    for row, part in enumerate(parts):
        left = 0.0
        for name, joules in part.items():
            width = joules / factor
            axis.barh(row, width, left=left, height=0.6, color=colours[name])
            if longest and width / longest > WRITTEN_FROM:
                ink = style.INK if name in ("idle", "memory", "link") else "white"
                axis.text(
                    left + width / 2, row, f"{width:.3g}", ha="center", va="center", fontsize=style.SMALL - 1, color=ink
                )
            left += width
        axis.text(
            left + 0.01 * longest, row, f"{left:.3g} {unit}", va="center", fontsize=style.SMALL, fontweight="bold"
        )
    names = [style.folded(run.title) for run in runs] if len(runs) > 1 else []
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, longest * 1.14 if longest else 1.0)
    token = "output token" if all("j_per_output_tok" in run.summary for run in runs) else "token"
    style.labels(axis, x=f"{unit} per {token}, devices only")
    _legend(made, colours)
    return made


def _per_token(run: Run) -> dict[str, float]:
    """Joules per output token (of a fixed batch's step: per token) by component, in the order of the colours."""
    total = run.summary["energy_j"]
    per_token = run.summary.get("j_per_output_tok", run.summary.get("j_per_tok"))
    parts = run.summary["energy_by_component_j"]
    names = [*style.COMPONENTS, *(name for name in parts if name not in style.COMPONENTS)]
    scale = per_token / total if total and per_token else 0.0
    return {name: parts[name] * scale for name in names if parts.get(name)}


def _colours(parts: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """A colour for every component there is; those of event-driven chips take colours that the others leave free."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    used = {style.COMPONENTS[name] for name in names if name in style.COMPONENTS}
    spare = iter([one for one in style.CASES if one not in used] * len(names))
    ordered = [*(name for name in style.COMPONENTS if name in names), *(n for n in names if n not in style.COMPONENTS)]
    return {name: style.COMPONENTS[name] if name in style.COMPONENTS else next(spare) for name in ordered}


def _legend(made: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=one, label=name.replace("_", " ")) for name, one in colours.items()]
    made.legend(
        handles=patches, loc="outside upper right", ncols=7, frameon=False, fontsize=style.SMALL, handlelength=1.0
    )
