"""A sweep: a scenario answered at every combination of its axes, or at a Latin hypercube between their ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsesim.errors import InputError, Problem
from sparsesim.run import dumps
from sparsesim.scenario import Scenario
from sparsesim.studies import SweepOptions
from sparsesim.study.axes import between, resolved
from sparsesim.study.backends import Backend, Computed, compute
from sparsesim.study.points import Ended, Point, point, write_text


def settings_of(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """What each point sets, in order; the last axis varies fastest.

    Raises:
        InputError: the study is no sweep, or has no axes.

    """
    study = scenario.study
    if study is None or not isinstance(study.options, SweepOptions):
        found = "none" if study is None else study.kind
        raise InputError(Problem(f"the study is {found}", path="study.kind", hint="sweep, with axes"))
    options, axes = study.options, study.axes
    if options.sampling == "grid":
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))
        return
    from scipy.stats import qmc

    shares = qmc.LatinHypercube(len(axes), rng=options.seed).random(options.samples)
    for row in shares.tolist():
        yield {path: between(values, share) for (path, values), share in zip(axes.items(), row, strict=True)}


def points_of(scenario: Scenario, folder: Path) -> list[Point]:
    """Every point of a sweep, checked before the first is computed.

    Raises:
        InputError: a path or a value that the scenario does not take.

    """
    every = list(settings_of(scenario))
    assert scenario.study is not None
    assert isinstance(scenario.study.options, SweepOptions)
    return points_at(scenario, every, scenario.study.options.evaluate, folder)


def points_at(scenario: Scenario, every: Sequence[dict[str, Any]], evaluation: str, folder: Path) -> list[Point]:
    """Points that show what was set, whatever was written for it."""
    found = []
    for settings in every:
        made = point(scenario, resolved(scenario, settings, folder), evaluation)
        found.append(Point(_name(settings, made), settings, made.values, made.folder, made.evaluation))
    return found


def _name(settings: dict[str, Any], made: Point) -> str:
    from sparsesim.study.cases import case_name

    return case_name(settings) or made.name


def sweep(
    scenario: Scenario,
    folder: Path,
    backend: Backend | None = None,
    jobs: int = -1,
    resume: bool = False,
    ended: Ended = lambda _done, _of: None,
) -> dict[str, Any]:
    """Answer every point; the study's summary, which also lies in `folder/summary.json`.

    `cases` are in the order of the axes whatever the backend; points that could not be answered carry an `error`.

    Raises:
        InputError: axes, options or backend that cannot be used.

    """
    points = points_of(scenario, folder)
    computed = compute(points, folder / "points", backend, jobs, resume, ended)
    return written(computed, folder)


def written(computed: Computed, folder: Path, **others: Any) -> dict[str, Any]:
    """The summary over all points that were answered, written beside them."""
    summary = {"cases": [one for one in computed.results if one is not None], "partial": computed.partial, **others}
    write_text(folder / "summary.json", dumps(summary) + "\n")
    return summary
