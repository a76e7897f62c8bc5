"""How well a class's fit predicts what it did not see: whole layers left out, and the largest fifth left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.calibrate.fit.least_squares import Prior, Solution, log_ratio, solve
from sparsesim.calibrate.fit.rows import Sample, joined
from sparsesim.cost.fitted import ClassFit
from sparsesim.hardware.device.gpu import Chip

Floats = npt.NDArray[np.float64]
FOLDS = 5
QUANTILE = 0.9


@dataclass(frozen=True)
class Errors:
    """Errors on left-out rows: log(predicted/measured) of the form alone and corrected, and of the largest fifth."""

    form: Floats
    corrected: Floats
    extrapolated: Floats
    inside: float

    def table(self) -> dict[str, float]:
        """In percent: MAPE of each, the corrected ones' median, 90th percentile and bias, and the interval's cover."""
        return {
            "form_mape": mape(self.form),
            "mape": mape(self.corrected),
            "median": 100 * float(np.median(np.abs(np.expm1(self.corrected)))),
            "p90": 100 * float(np.quantile(np.abs(np.expm1(self.corrected)), QUANTILE)),
            "bias": 100 * float(np.mean(np.expm1(self.corrected))),
            "extrapolation_mape": mape(self.extrapolated),
            "inside": 100 * self.inside,
        }


def mape(errors: Floats) -> float:
    """Mean absolute error in percent."""
    return 100 * float(np.mean(np.abs(np.expm1(errors)))) if len(errors) else float("nan")


def split(samples: Sequence[Sample], mask: npt.NDArray[np.bool_]) -> list[Sample]:
    """The samples' rows under a mask over all of them."""
    parts, start = [], 0
    for sample in samples:
        own = mask[start : start + len(sample)]
        start += len(sample)
        if own.any():
            parts.append(sample.take(own))
    return parts


def class_fit(samples: Sequence[Sample], solution: Solution, chip: Chip, half_width: float = 0.0) -> ClassFit:
    """A fit with its residuals as they correct near the data."""
    ratio = log_ratio(samples, solution.parameters, chip)
    _, _, points = joined(samples)
    return ClassFit(solution.parameters, half_width, len(ratio), neighbour_distance(points), points, -ratio)


def neighbour_distance(points: Floats) -> float:
    """Median distance (octaves) of a row to its nearest neighbour."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return 1.0
    distance, _ = cKDTree(points).query(points, k=2)
    return float(np.median(distance[:, 1]))


def cross_validate(samples: Sequence[Sample], whole: Solution, chip: Chip, prior: Prior) -> tuple[Errors, float]:
    """Errors on left-out rows, and the half-width whose interval, as it widens with distance, holds 90 % of them."""
    time, layer, points = joined(samples)
    names = np.unique(layer)
    rng = np.random.default_rng(0)
    fold_of = dict(zip(rng.permutation(names).tolist(), np.arange(len(names)) % FOLDS, strict=True))
    fold = np.array([fold_of[name] for name in layer.tolist()]) if len(names) >= FOLDS else np.arange(len(time)) % FOLDS
    form, corrected, widening = np.full(len(time), np.nan), np.full(len(time), np.nan), np.ones(len(time))
    for held in range(FOLDS):
        test = fold == held
        if test.any() and not test.all():
            form[test], corrected[test], widening[test] = _left_out(samples, test, whole, chip, prior)
    done = ~np.isnan(form)
    half = float(np.quantile(np.abs(corrected[done]) / widening[done], QUANTILE)) if done.any() else 0.5
    inside = float(np.mean(np.abs(corrected[done]) <= half * widening[done])) if done.any() else 0.0
    size = points.sum(axis=1)
    large = size > np.quantile(size, 0.8)
    extrapolated = _left_out(samples, large, whole, chip, prior)[1] if large.any() and not large.all() else np.zeros(0)
    return Errors(form[done], corrected[done], extrapolated, inside), half


def _left_out(
    samples: Sequence[Sample], test: npt.NDArray[np.bool_], whole: Solution, chip: Chip, prior: Prior
) -> tuple[Floats, Floats, Floats]:
    train, held = split(samples, ~test), split(samples, test)
    solution = solve(train, chip, prior, whole.parameters)
    form = log_ratio(held, solution.parameters, chip)
    fit = class_fit(train, solution, chip, 1.0)
    correction, nearest = fit.near(joined(held)[2])
    return form, form + correction, fit.half_widths(nearest)
