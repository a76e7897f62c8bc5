"""One page that can be mailed and printed: question, answer, figures, pictures, assumptions, how to cite."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from sparsesim.report.plots import style
from sparsesim.report.plots.axis import axis_figure, axis_of
from sparsesim.report.plots.comparison import comparison_figure, labelled
from sparsesim.report.plots.energy import energy_figure
from sparsesim.report.plots.latency import latency_figure
from sparsesim.report.plots.roofline import ops_figure, roofline_figure
from sparsesim.report.plots.timeline import timeline_figure
from sparsesim.report.tables import (
    LATENCIES,
    MANY,
    OP_COLUMNS,
    RIGHT,
    STATISTICS,
    figures,
    key_figures,
    op_rows,
    plain_rows,
    side_by_side,
)
from sparsesim.report.words import answer, deployment, described, interval_of, shown, verdict
from sparsesim.run import Run

CAPTIONS = {
    "latency": "Share of finished requests that were at least as fast; the dashed line is the SLO.",
    "timeline": "Power of all devices by component, requests in the batches and waiting, KV blocks in use.",
    "roofline": "Each op of one step under the roofs of its device; a dot's area is its share of the step's time.",
    "ops": "Time of each part of the model in one step, by what bounds it.",
    "energy": "Joules per token by component; idle is what devices draw between engine steps.",
    "axis": "Per token over what was varied; a ring marks where a line crosses the first one.",
    "comparison": "The cases side by side; a line across a bar's end is the interval of its figure.",
}


@dataclass(frozen=True)
class Picture:
    """A figure under its file's name."""

    name: str
    made: Any
    title: str = ""

    @property
    def caption(self) -> str:
        """What it shows."""
        return CAPTIONS[self.name.partition("-")[0]]


def pictures(runs: Sequence[Run]) -> Iterator[Picture]:
    """Every picture that the runs have tables for."""
    axis = axis_of(runs) if len(runs) > 1 else None
    if axis is not None:
        yield Picture("axis", axis_figure(axis))
    if len(runs) > 1:
        yield Picture("comparison", comparison_figure(runs))
    timed = [run for run in runs if "requests" in run.tables]
    if timed and len(timed) <= len(style.CASES):
        yield Picture("latency", latency_figure(timed))
    if any(run.summary.get("energy_by_component_j") for run in runs):
        yield Picture("energy", energy_figure([run for run in runs if run.summary.get("energy_by_component_j")]))
    for number, run in enumerate(runs if len(runs) <= OWN_PICTURES else ()):
        yield from _own(run, f"-{number + 1}" if len(runs) > 1 else "", run.title if len(runs) > 1 else "")


def _own(run: Run, suffix: str, title: str) -> Iterator[Picture]:
    if "power" in run.tables:
        yield Picture(f"timeline{suffix}", timeline_figure(run), title)
    if "ops" in run.tables:
        yield Picture(f"roofline{suffix}", roofline_figure(run), title)
        yield Picture(f"ops{suffix}", ops_figure(run), title)


def page(runs: Sequence[Run], question: str, drawn: Sequence[tuple[Picture, str]]) -> str:
    """The page as HTML without a single link to anything outside of it; `drawn` holds pictures with their SVG."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("sparsesim.report") / "templates" / "report.html.j2").read_text())
    return template.render(
        question=question,
        lead=verdict(runs) if len(runs) > 1 else answer(runs[0]),
        runs=[_case(run) for run in runs],
        rows=[(labelled(name), cells) for name, cells in side_by_side(runs)] if len(runs) > 1 else [],
        many=key_figures(runs) if len(runs) > MANY else None,
        statistics=STATISTICS,
        op_columns=OP_COLUMNS,
        right=RIGHT,
        pictures=[{"caption": p.caption, "title": p.title, "svg": _named(text, p.caption)} for p, text in drawn],
        assumptions=list(dict.fromkeys(line for run in runs for line in run.manifest.get("assumptions", ()))),
        citations=list(dict.fromkeys(line for run in runs for line in run.manifest.get("citations", ()))),
    )


def _named(svg: str, caption: str) -> str:
    """The picture with its caption for readers who do not see it."""
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)


def _case(run: Run) -> dict[str, Any]:
    """What the template shows of one run."""
    import yaml

    return {
        "title": run.title,
        "deployment": deployment(run),
        "answer": answer(run),
        "kind": run.kind,
        "latencies": list(_latencies(run)),
        "groups": _groups(run),
        "has_intervals": any(interval for _, _, interval in figures(run)),
        "ops": list(op_rows(run, OPS)) if "ops" in run.tables else [],
        "memory": list(_memory(run)),
        "provenance": list(_provenance(run)),
        "manifest": run.manifest,
        "scenario": yaml.safe_dump(
            _without_empty(run.manifest.get("scenario", {})), sort_keys=False, allow_unicode=True
        ),
    }


OWN_PICTURES = 4
"""Cases up to which each gets pictures of its own; beyond, they would bury the comparison."""
OPS = 8
"""Ops of each phase listed on the page."""


def _latencies(run: Run) -> Iterator[tuple[str, str, list[str], str]]:
    """Label, meaning, statistics and the interval of the mean."""
    for name in LATENCIES:
        found = run.summary.get(name)
        if found and found.get("mean") is not None:
            row = described(name)
            yield (
                row.label,
                row.meaning,
                [shown(found.get(k), "s") for k in STATISTICS],
                interval_of(run, f"{name}.mean"),
            )


def _groups(run: Run) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Single figures by what they are of: label, value, interval, meaning."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for row, value, interval in figures(run):
        found.setdefault(GROUPS.get(row.scope, row.scope), []).append((row.label, value, interval, row.meaning))
    parts, whole = run.summary.get("energy_by_component_j") or {}, run.summary.get("energy_j")
    for name, joules in parts.items():
        share = f"{shown(joules / whole, 'share')} of the whole" if whole else ""
        found.setdefault(GROUPS["gpu"], []).append((f"Energy, {name}", shown(joules, "J"), "", share))
    return list(found.items())


GROUPS = {
    "requests": "Requests",
    "deployment": "Deployment",
    "gpu": "Energy and power, devices only",
    "node, facility or money": "Node, facility, money",
    "simulator": "Simulator",
}


def _memory(run: Run) -> Iterator[tuple[str, str]]:
    """Bytes with a unit and counts, by pool where there are several."""
    pools = run.manifest.get("memory") or {}
    for pool, parts in pools.items():
        for name, value in parts.items():
            of_pool = f"{pool}: " if len(pools) > 1 else ""
            text = shown(value, "B") if name.endswith("_bytes") else f"{value:,}"
            yield f"{of_pool}{name.removesuffix('_bytes').replace('_', ' ')}", text


def _provenance(run: Run) -> Iterator[tuple[str, str]]:
    """What the figures rest on; numbers there are shares."""
    for name, value in plain_rows(run.summary.get("provenance") or {}):
        text = shown(value, "share") if isinstance(value, float) else str(value)
        yield name.removeprefix("all.").replace("_", " ").replace(".", ", "), text


def _without_empty(values: Any) -> Any:
    """The scenario less the keys that nothing was said for."""
    if isinstance(values, dict):
        return {key: _without_empty(item) for key, item in values.items() if item is not None}
    return [_without_empty(item) for item in values] if isinstance(values, list) else values
