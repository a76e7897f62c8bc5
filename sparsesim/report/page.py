"""One page that can be mailed and printed: question, answer, figures, pictures, assumptions, how to cite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from sparsesim.report.plots import style
from sparsesim.report.plots.comparison import comparison_figure, figure_of
from sparsesim.report.plots.energy import energy_figure
from sparsesim.report.plots.latency import latency_figure
from sparsesim.report.plots.roofline import ops_figure, roofline_figure
from sparsesim.report.plots.timeline import timeline_figure
from sparsesim.report.tables import LATENCIES, STATISTICS, figures, plain_rows, scalar_names
from sparsesim.report.words import answer, deployment, described, shown, verdict
from sparsesim.run import Run
from sparsesim.units import parse

CAPTIONS = {
    "latency": "Share of finished requests that were at least as fast; the dashed line is the SLO.",
    "timeline": "Power of all devices by component, requests in the batches and waiting, KV blocks in use.",
    "roofline": "Each op of one step under the roofs of its device; a dot's area is its share of the step's time.",
    "ops": "Time of each part of the model in one step, by what bounds it.",
    "energy": "Joules per output token by component; idle is what devices draw between engine steps.",
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
    if len(runs) > 1:
        yield Picture("comparison", comparison_figure(runs))
    timed = [run for run in runs if "requests" in run.tables]
    if timed:
        yield Picture("latency", latency_figure(timed))
    if any(run.summary.get("energy_by_component_j") for run in runs):
        yield Picture("energy", energy_figure([run for run in runs if run.summary.get("energy_by_component_j")]))
    for number, run in enumerate(runs):
        yield from _own(run, f"-{number + 1}" if len(runs) > 1 else "", run.title if len(runs) > 1 else "")


def _own(run: Run, suffix: str, title: str) -> Iterator[Picture]:
    if "power" in run.tables:
        warm_up = run.manifest.get("scenario", {}).get("simulation", {}).get("warm_up", "0 s")
        yield Picture(f"timeline{suffix}", timeline_figure(run, parse(warm_up, "time")), title)
    if "ops" in run.tables:
        yield Picture(f"roofline{suffix}", roofline_figure(run), title)
        yield Picture(f"ops{suffix}", ops_figure(run), title)


def page(runs: Sequence[Run], question: str, drawn: Sequence[Picture]) -> str:
    """The page as HTML without a single link to anything outside of it."""
    import jinja2
    import yaml

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("sparsesim.report") / "templates" / "report.html.j2").read_text())
    return template.render(
        question=question,
        lead=(verdict(runs) if len(runs) > 1 else answer(runs[0])),
        runs=[
            {
                "title": run.title,
                "deployment": deployment(run),
                "answer": answer(run),
                "kind": run.kind,
                "latencies": list(_latencies(run)),
                "figures": list(figures(run)),
                "components": _components(run),
                "memory": list(plain_rows(_memory(run))),
                "provenance": list(plain_rows(run.summary.get("provenance") or {})),
                "manifest": run.manifest,
                "scenario": yaml.safe_dump(run.manifest.get("scenario", {}), sort_keys=False, allow_unicode=True),
            }
            for run in runs
        ],
        rows=list(_side_by_side(runs)) if len(runs) > 1 else [],
        statistics=STATISTICS,
        pictures=[{"caption": p.caption, "title": p.title, "svg": style.svg(p.made)} for p in drawn],
        assumptions=list(dict.fromkeys(line for run in runs for line in run.manifest.get("assumptions", ()))),
        citations=list(dict.fromkeys(line for run in runs for line in run.manifest.get("citations", ()))),
    )


def _latencies(run: Run) -> Iterator[tuple[str, str, list[str]]]:
    for name in LATENCIES:
        found = run.summary.get(name)
        if found and found.get("mean") is not None:
            meaning = described(name).meaning
            yield name.removesuffix("_s").upper(), meaning, [shown(found.get(key), "s") for key in STATISTICS]


def _components(run: Run) -> list[tuple[str, str, str]]:
    parts, whole = run.summary.get("energy_by_component_j") or {}, run.summary.get("energy_j")
    return [(name, shown(j, "J"), shown(j / whole, "share") if whole else "") for name, j in parts.items()]


def _memory(run: Run) -> dict[str, Any]:
    """Bytes with a unit, by pool."""
    return {
        pool: {name: shown(value, "B") if isinstance(value, float) else value for name, value in parts.items()}
        for pool, parts in (run.manifest.get("memory") or {}).items()
    }


def _side_by_side(runs: Sequence[Run]) -> Iterator[tuple[str, str, list[str]]]:
    names = [f"{name}.{key}" for name in LATENCIES for key in ("mean", "p50", "p99")]
    for name in (*names, *scalar_names(runs)):
        values = [figure_of(run.summary, name) for run in runs]
        if any(value is not None for value in values):
            row = described(name)
            yield name, row.meaning, [shown(value, row.unit) for value in values]
