"""A plan as a folder: summary.json, candidates.csv, winner.yaml, and launch arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sparsesim.run import commit, dumps, versions
from sparsesim.study.planning.finalists import Finalist, name_of
from sparsesim.study.planning.screen import TERMS
from sparsesim.study.planning.search import Plan
from sparsesim.study.points import write_text


def summary_of(plan: Plan) -> dict[str, Any]:
    """Everything a plan found, as JSON takes it; `cases` are the finalists by rank."""
    search = plan.search
    return {
        "objective": search.objective,
        "feasible": plan.winner is not None,
        "partial": plan.partial,
        "devices": plan.space.devices,
        "candidates": len(search.candidates),
        "layouts": len(search.families),
        "winner": plan.winner.name if plan.winner else None,
        "cases": [case_of(plan, one) for one in plan.finalists],
        "bound": plan.bound,
        "reasons": [
            {"family": r.family, "kind": r.kind, "text": r.text, "by": r.by, "candidates": r.candidates}
            for r in plan.reasons
        ],
        "changes": [{"what": c.what, "choice": c.choice, "same_family": c.same_family} for c in plan.changes],
        "front": [name_at(plan, int(row)) for row in plan.front],
        "launch": {one.name: {"command": one.command, "notes": list(one.notes)} for one in plan.launches},
        "assumptions": plan.assumptions,
        "seconds": plan.seconds,
        "infeasible": [] if plan.winner else plan.infeasible(),
        "versions": versions(),
        "commit": commit(),
    }


def case_of(plan: Plan, one: Finalist) -> dict[str, Any]:
    """A finalist: what it sets, its figures, and what the screening had predicted."""
    row = one.row
    c = plan.search.candidates
    family = plan.search.families[int(c.family[row])]
    return {
        "name": one.name,
        "set": {**family.variant.set, **settings_at(plan, row)},
        "met": one.met,
        "objectives": one.objectives,
        "predicted": {name: float(value) for name, value in zip(TERMS, c.high[row], strict=True)},
        "twins": sorted(name_at(plan, twin) for twin, of in plan.search.twins.items() if of == row),
        "summary": one.summary,
    }


def settings_at(plan: Plan, row: int) -> dict[str, Any]:
    """What a candidate sets beyond its variant."""
    c = plan.search.candidates
    family = plan.search.families[int(c.family[row])]
    limits: dict[str, Any] = {
        "deployment.scheduler": str(c.scheduler[row]),
        "deployment.scheduler.max_running": int(c.max_running[row]),
        "deployment.scheduler.token_budget": int(c.token_budget[row]),
        "power.cap_w": float(c.cap_w[row]),
    }
    if family.prefill is None:
        layout = {f"deployment.{name}": value for name, value in family.instance.layout._asdict().items()}
        return {**layout, "deployment.replicas": int(c.replicas[row]), **limits}
    found: dict[str, Any] = {}
    counts = (int(c.prefill_replicas[row]), int(c.replicas[row]))
    for (role, one), count in zip(family.instances.items(), counts, strict=True):
        keys = {"hardware": one.site.hardware, **one.layout._asdict(), "replicas": count}
        found |= {f"deployment.pools.{role}.{name}": value for name, value in keys.items()}
    found["deployment.pools.decode.scheduler.max_running"] = limits["deployment.scheduler.max_running"]
    found["deployment.pools.prefill.scheduler.token_budget"] = limits["deployment.scheduler.token_budget"]
    return {**found, "power.cap_w": limits["power.cap_w"]}


def name_at(plan: Plan, row: int) -> str:
    """A candidate in words."""
    c = plan.search.candidates
    return name_of(c, row, plan.search.families[int(c.family[row])])


def write_plan(plan: Plan, folder: Path) -> None:
    """Write all files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*folder.glob("launch-*.sh"), folder / "winner.yaml"):
        path.unlink(missing_ok=True)  # an earlier plan's, which would be taken for this one's
    write_text(folder / "summary.json", dumps(summary_of(plan)) + "\n")
    write_text(folder / "candidates.csv", "".join(_lines(plan)))
    if plan.winner is not None:
        write_text(folder / "winner.yaml", winner_yaml(plan))
        for one in plan.launches:
            notes = "".join(f"# {note}\n" for note in one.notes)
            write_text(folder / f"launch-{one.name}.sh", f"#!/bin/sh\n{notes}{one.command}\n")


def winner_yaml(plan: Plan) -> str:
    """The winner as a scenario that `sparsesim run` takes; relative paths start where the plan's scenario lies."""
    assert plan.winner is not None
    values = {key: value for key, value in plan.winner.scenario.document.values.items() if value is not None}
    of = f"{len(plan.search.done)} simulated and {len(plan.search.candidates):,} screened candidates"
    head = f"# {plan.winner.name}\n# chosen by sparsesim plan: lowest {plan.search.objective} of {of}\n"
    values["title"] = plan.winner.name
    return head + yaml.safe_dump(_without_none(values), sort_keys=False, allow_unicode=True)


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_none(item) for key, item in values.items() if item is not None}
    return values


def _lines(plan: Plan) -> Iterator[str]:
    """Every candidate of the screening as CSV."""
    c = plan.search.candidates
    words = ("family", "scheduler")
    numbers = (
        "replicas",
        "prefill_replicas",
        "max_running",
        "token_budget",
        "cap_w",
        "devices",
        "running",
        "most_per_s",
    )
    means = [f"mean_{name}" for name in TERMS] + [f"predicted_{name}" for name in TERMS]
    yield ",".join([*words, *numbers, *means, *c.objectives, "saturated", "bottleneck", "ruled_out", "ratio"]) + "\n"
    ratio = plan.search.ratio()
    values = np.column_stack([*(getattr(c, n).astype(float) for n in numbers), c.mean, c.high, *c.objectives.values()])
    for row, line in enumerate(values.tolist()):
        family = plan.search.families[int(c.family[row])].name
        cells = [f'"{family}"', str(c.scheduler[row]), *(_cell(v) for v in line)]
        cells += [str(bool(c.saturated[row])).lower(), str(c.bottleneck[row])]
        cells += [str(bool(plan.dead[row])).lower(), _cell(float(ratio[row]))]
        yield ",".join(cells) + "\n"


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
