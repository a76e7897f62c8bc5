"""Bounded least squares on log ratios: a class's few parameters from its measured rows.

Residuals are log(predicted / measured) under a soft-L1 loss, parameters move in the log of their bounds (linearly where
a bound is zero), a weak prior holds unidentified ones near their start (facts: kernel forms, fitting recipe).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.calibrate.fit.rows import Sample
from sparsesim.cost.forms import Form, Parameter
from sparsesim.hardware.device.gpu import Chip

Floats = npt.NDArray[np.float64]
PRIOR_WEIGHT = 0.06
BASE_WEIGHT = 0.3
"""Prior weight of another chip's constants: forms are shares of the datasheet, so most of them carry over."""
SOFT_EDGE = 0.1
DIFF_STEP = 1e-3
NO_EFFECT = 1e-2
"""Root-mean-square change of log time, over a parameter's whole range, that counts as none."""
ELSEWHERE = (0.3, 0.6)
"""Shares of its range where a parameter without effect is tried."""
_ON_BOUND = 0.01


@dataclass(frozen=True)
class Solution:
    """Parameters, their covariance in fitted space, and which rest on a bound."""

    parameters: dict[str, float]
    covariance: list[list[float]]
    on_bound: tuple[str, ...]


def _to(parameter: Parameter, value: float) -> float:
    if parameter.low <= 0:
        return (value - parameter.low) / (parameter.high - parameter.low)
    return float(np.log(value / parameter.low) / np.log(parameter.high / parameter.low))


def _from(parameter: Parameter, x: float) -> float:
    if parameter.low <= 0:
        return float(parameter.low + x * (parameter.high - parameter.low))
    return float(parameter.low * (parameter.high / parameter.low) ** x)


def log_ratio(samples: Sequence[Sample], parameters: dict[str, float], chip: Chip) -> Floats:
    """log(predicted / measured) of every row."""
    rows = []
    for sample in samples:
        predicted = np.asarray(sample.form.timing(sample.op, parameters, chip).time_s, float)
        rows.append(np.log(np.broadcast_to(predicted, sample.time_s.shape) / sample.time_s))
    return np.concatenate(rows)


@dataclass(frozen=True)
class Prior:
    """Where parameters are held, and how strongly: another chip's constants hold more than a form's start."""

    values: Mapping[str, float]
    weight: float


def prior_of(form: Form[Any], base: Mapping[str, float] | None) -> Prior:
    """Another chip's constants where there are any, else the form's start."""
    if base is not None:
        return Prior(base, BASE_WEIGHT)
    return Prior({q.name: q.start for q in form.parameters}, PRIOR_WEIGHT)


def solve(samples: Sequence[Sample], chip: Chip, prior: Prior, start: Mapping[str, float] | None = None) -> Solution:
    """Fit one class; parameters are those of its form."""
    from scipy.optimize import least_squares

    declared = samples[0].form.parameters
    centre = np.array([_to(q, prior.values[q.name]) for q in declared])

    def residuals(x: Floats) -> Floats:
        values = {q.name: _from(q, v) for q, v in zip(declared, x, strict=True)}
        return np.concatenate([log_ratio(samples, values, chip), prior.weight * (x - centre) / 0.3])

    begin = centre if start is None else np.array([_to(q, start[q.name]) for q in declared])
    options: dict[str, Any] = {
        "bounds": (np.zeros(len(declared)), np.ones(len(declared))),
        "loss": "soft_l1",
        "f_scale": SOFT_EDGE,
        "diff_step": DIFF_STEP,
    }
    found = least_squares(residuals, np.clip(begin, 0.02, 0.98), **options)
    starts = [found.x + 0.05 * np.sign(0.5 - found.x)]
    if start is None:
        idle = _without_effect(found, len(centre))
        starts += [np.where(idle, place, found.x) for place in ELSEWHERE if idle.any()]
    others = [least_squares(residuals, np.clip(x, 0.02, 0.98), **options) for x in starts]
    best = min((found, *others), key=lambda result: result.cost)
    values = {q.name: _from(q, x) for q, x in zip(declared, best.x, strict=True)}
    at_bound = tuple(q.name for q, x in zip(declared, best.x, strict=True) if min(x, 1 - x) < _ON_BOUND)
    return Solution(values, _covariance(best), at_bound)


def _without_effect(result: Any, parameters: int) -> npt.NDArray[np.bool_]:
    """Parameters that the measured rows do not feel where a fit ended: another place in their range may fit better."""
    felt = np.linalg.norm(result.jac[:-parameters], axis=0)
    return np.asarray(felt < NO_EFFECT * np.sqrt(len(result.fun)))


def _covariance(result: Any) -> list[list[float]]:
    rows = len(result.fun)
    scale = 2.0 * float(result.cost) / max(rows - len(result.x), 1)
    rounded: list[list[float]] = np.round(np.linalg.pinv(result.jac.T @ result.jac) * scale, 8).tolist()
    return rounded
