"""An engine's few numbers from observations of servers running it.

Host time of a step and of each sequence, device time of sampling a logit, the gap between kernels, the quality of its
kernels, expert kernels and collectives over ours: one set for all models of an engine and version, by bounded least
squares on the log ratios of inter-token latency, output rate and power (power tells waiting from working; soft L1,
weak priors), as kernels are fitted. A negative gap is prologue hidden behind the kernel before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsesim.hardware.engine import Engine, with_numbers
from sparsesim.published.observation import Observation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Number:
    """One number of an engine profile: its bounds and how far its prior reaches."""

    name: str
    low: float
    high: float
    spread: float


NUMBERS = (
    Number("host_per_step", 0.0, 10e-3, 1e-3),
    Number("host_per_sequence", 0.0, 200e-6, 20e-6),
    Number("sampling", 0.0, 2e-9, 0.1e-9),
    Number("gap", -2.5e-6, 6e-6, 1e-6),
    Number("quality", 0.5, 2.0, 0.1),
    Number("experts", 0.4, 3.0, 0.5),
    Number("collectives", 0.1, 3.0, 0.3),
)
PRIOR_WEIGHT = 0.5
"""Strong enough that the two halves of a table, with two or three models each, find like numbers."""
SOFT_EDGE = 0.15


@dataclass(frozen=True, slots=True)
class EngineFit:
    """Fitted numbers, their covariance, and log ratios [rows, 3] before and after."""

    engine: Engine
    values: dict[str, float]
    covariance: list[list[float]]
    before: Floats
    after: Floats


def ratios(observations: Sequence[Observation], engine: Engine) -> Floats:
    """log(predicted / measured) of gap, rate and power under an engine, [rows, 3]."""
    steps = {id(o.steps): replace(o.steps, engine=engine, _curves={}) for o in observations}
    return np.stack([o.log_ratios(o.predicted(steps[id(o.steps)])) for o in observations])


def fit_engine(engine: Engine, observations: Sequence[Observation], numbers: Sequence[Number] = NUMBERS) -> EngineFit:
    """Fit the engine's numbers to observations."""
    from scipy.optimize import least_squares

    start = np.array([getattr(engine, n.name).value for n in numbers])
    spread = np.array([n.spread for n in numbers])

    def of(x: Floats) -> dict[str, float]:
        return {n.name: float(v) for n, v in zip(numbers, start + spread * x, strict=True)}

    def residuals(x: Floats) -> Floats:
        found = ratios(observations, with_numbers(engine, of(x), "fitted")).ravel()
        return np.concatenate([found[np.isfinite(found)], PRIOR_WEIGHT * x])

    low = np.array([(n.low - s) / n.spread for n, s in zip(numbers, start, strict=True)])
    high = np.array([(n.high - s) / n.spread for n, s in zip(numbers, start, strict=True)])
    result = least_squares(
        residuals, np.clip(np.zeros(len(start)), low + 1e-6, high - 1e-6), bounds=(low, high), loss="soft_l1",
        f_scale=SOFT_EDGE, diff_step=1e-3, x_scale=1.0,
    )  # fmt: skip
    values = of(result.x)
    fitted = with_numbers(engine, values, "fitted")
    scale = 2.0 * float(result.cost) / max(len(result.fun) - len(start), 1)
    covariance = (np.linalg.pinv(result.jac.T @ result.jac) * scale * np.outer(spread, spread)).tolist()
    return EngineFit(fitted, values, covariance, ratios(observations, engine), ratios(observations, fitted))
