"""Scenarios side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsesim.closed_form import estimate
from sparsesim.errors import InputError, Problem
from sparsesim.run import Run, case_folders, dumps
from sparsesim.scenario import Scenario
from sparsesim.simulation import Progress, simulate
from sparsesim.study.cases import Case, cases
from sparsesim.workload.kinds.static import Static
from sparsesim.workload.kinds.training import Training

Watch = Callable[[str], Progress | None]


def run_case(case: Case, watch: Watch) -> Run:
    """Simulate a case, or cost its step where its workload is a fixed batch."""
    if isinstance(case.scenario.workload, Training):
        return estimate(case.scenario).titled(case.name)
    if isinstance(case.scenario.workload, Static) and case.scenario.simulation.detail == "step":
        return estimate(case.scenario).titled(case.name)
    return simulate(case.scenario, watch(case.name)).titled(case.name)


def run_cases(scenarios: Sequence[Scenario], watch: Watch) -> tuple[list[Case], list[Run]]:
    """Run the cases of all scenarios in order; an interrupted one is the last."""
    done: list[Case] = []
    runs: list[Run] = []
    for scenario in scenarios:
        _check_compares(scenario)
        for case in cases(scenario):
            runs.append(run_case(case, watch))
            done.append(case)
            if runs[-1].partial:
                return done, runs
    return done, runs


def _check_compares(scenario: Scenario) -> None:
    """Raise where a scenario's study is another command's: its axes would be read as cases to compare."""
    kind = scenario.study.kind if scenario.study else "compare"
    if kind != "compare":
        place = scenario.document.place(("study", "kind"))
        raise InputError(Problem(f"the scenario's study is a {kind}", "study.kind", place, f"sparsesim {kind}"))


def summary_of(done: Sequence[Case], runs: Sequence[Run]) -> dict[str, Any]:
    """A study's summary: its cases with what they set and their summaries; finished runs beside them set nothing."""
    settings = {case.name: case.set for case in done}
    return {
        "cases": [{"name": run.title, "set": settings.get(run.title, {}), "summary": run.summary} for run in runs],
        "partial": any(run.partial for run in runs),
    }


def write_cases(done: Sequence[Case], runs: Sequence[Run], folder: Path) -> None:
    """A run folder for each case, in place of those of an earlier study there, and summary.json over all."""
    for number, run in enumerate(runs):
        run.write(folder / f"case-{number:03d}")
    for older in case_folders(folder)[len(runs) :]:
        shutil.rmtree(older)
    part = folder / ".summary.json"
    part.write_text(dumps(summary_of(done, runs)) + "\n", encoding="utf-8")
    part.replace(folder / "summary.json")
