"""Sensitivity: which parameters the figures follow, and how far.

Tornado: every axis alone at each of its values, the others as the scenario has them. Sobol: the share of a figure's
variance, over the ranges of all axes at once, that each axis explains alone (first order) and together with others
(total), by Saltelli's 2010 estimator (scipy.stats.sobol_indices) on Sobol's sequence; its intervals are bootstrapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.metrics.stats import flat
from sparsesim.scenario import Scenario
from sparsesim.studies import SensitivityOptions
from sparsesim.study.axes import between, is_range
from sparsesim.study.backends import Backend, compute
from sparsesim.study.points import Ended
from sparsesim.study.sweep import points_at, written

LEVEL = 0.9
"""Confidence level of the indices' intervals."""


def sensitivity(
    scenario: Scenario,
    folder: Path,
    backend: Backend | None = None,
    jobs: int = -1,
    resume: bool = False,
    ended: Ended = lambda _done, _of: None,
) -> dict[str, Any]:
    """The tornado, and where asked for the Sobol indices; the summary lies in `folder/summary.json` too.

    Raises:
        InputError: axes, options or backend that cannot be used, or a figure that no point has.

    """
    study = scenario.study
    if study is None or not isinstance(study.options, SensitivityOptions):
        found = "none" if study is None else study.kind
        raise InputError(Problem(f"the study is {found}", path="study.kind", hint="sensitivity, with axes"))
    options = study.options
    tornado_sets = [{}, *({path: value} for path, values in study.axes.items() for value in values)]
    sobol_sets = _saltelli(study.axes, options) if options.sobol else []
    points = points_at(scenario, [*tornado_sets, *sobol_sets], options.evaluate, folder)
    computed = compute(points, folder / "points", backend, jobs, resume, ended)
    if computed.partial:
        return written(computed, folder)
    figures = [_figures(result, options.figures) for result in computed.results]
    tornado = _tornado(study.axes, figures[: len(tornado_sets)], options.figures)
    indices = _indices(study.axes, figures[len(tornado_sets) :], options) if options.sobol else {}
    return written(computed, folder, tornado=tornado, sobol=indices)


def _figures(result: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, float]:
    """The figures of one point; all must be there.

    Raises:
        InputError: the point failed, or has no such figure.

    """
    if result is None or "error" in result:
        at = {} if result is None else result["set"]
        raise InputError(Problem(f"the point {at} has no answer: {(result or {}).get('error')}", path="study.axes"))
    found = dict(flat(result["summary"]))
    for name in names:
        if name not in found:
            hint = "one of: " + ", ".join(key for key in found if not key.startswith(("intervals", "bound")))
            raise InputError(Problem(f"no figure {name!r}", path="study.options.figures", hint=hint))
    return {name: found[name] for name in names}


def _tornado(
    axes: Mapping[str, Sequence[Any]], figures: Sequence[Mapping[str, float]], names: Sequence[str]
) -> dict[str, Any]:
    """By figure: the base, and each axis with its values and what they make of it, the widest first."""
    base, rest = figures[0], iter(figures[1:])
    by_axis = {path: [(value, next(rest)) for value in values] for path, values in axes.items()}
    found = {}
    for name in names:
        bars: list[dict[str, Any]] = [
            {
                "axis": path,
                "values": [value for value, _ in answered],
                "figures": [figure[name] for _, figure in answered],
                "low": min(base[name], *(figure[name] for _, figure in answered)),
                "high": max(base[name], *(figure[name] for _, figure in answered)),
            }
            for path, answered in by_axis.items()
        ]
        found[name] = {"base": base[name], "bars": sorted(bars, key=lambda bar: bar["low"] - bar["high"])}
    return found


def _saltelli(axes: Mapping[str, Sequence[Any]], options: SensitivityOptions) -> list[dict[str, Any]]:
    """Settings of the samples A, B and, for each axis, A with that axis from B, one after the other."""
    from scipy.stats import qmc

    plain = [path for path, values in axes.items() if not is_range(values)]
    if plain:
        hint = "two numbers, or two quantities of one unit"
        raise InputError(Problem("is no range, as Sobol indices need", path=f"study.axes.{plain[0]}", hint=hint))
    drawn = qmc.Sobol(2 * len(axes), rng=options.seed).random(options.samples)
    a, b = drawn[:, : len(axes)], drawn[:, len(axes) :]
    mixed = [np.where(np.arange(len(axes)) == k, b, a) for k in range(len(axes))]
    return [
        {path: between(values, share) for (path, values), share in zip(axes.items(), row, strict=True)}
        for sample in (a, b, *mixed)
        for row in sample.tolist()
    ]


def _indices(
    axes: Mapping[str, Sequence[Any]], figures: Sequence[Mapping[str, float]], options: SensitivityOptions
) -> dict[str, Any]:
    """By figure and axis: first-order and total index with their intervals."""
    from scipy.stats import sobol_indices

    n, d = options.samples, len(axes)
    found: dict[str, Any] = {}
    for name in options.figures:
        values = np.array([figure[name] for figure in figures]).reshape(d + 2, n)
        if np.ptp(values) == 0:
            found[name] = {path: {"first": 0.0, "total": 0.0} for path in axes}
            continue
        func = {"f_A": values[0][None, :], "f_B": values[1][None, :], "f_AB": values[2:][:, None, :]}
        indices = sobol_indices(func=func, n=n)
        bounds = indices.bootstrap(confidence_level=LEVEL)
        found[name] = {
            path: {
                "first": float(np.ravel(indices.first_order)[k]),
                "total": float(np.ravel(indices.total_order)[k]),
                "first_interval": _interval(bounds.first_order, k),
                "total_interval": _interval(bounds.total_order, k),
            }
            for k, path in enumerate(axes)
        }
    return found


def _interval(bounds: Any, place: int) -> list[float]:
    low, high = (
        float(np.ravel(side)[place]) for side in (bounds.confidence_interval.low, bounds.confidence_interval.high)
    )
    return [low, high]
