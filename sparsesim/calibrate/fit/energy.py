"""Energy coefficients from rows with measured joules: static watts, J/FLOP by dtype, J/byte of memory and link.

    E = P0 t + (sum a_dtype FLOP_executed + a_x SRAM bytes) (f/f_max)^m + b HBM bytes + c link bytes

with the measured time and clock, so that the errors of the time forms stay out; relative errors, all coefficients
positive. HBM bytes and executed FLOP are those of the time forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms import FORMS
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.power import CLOCK_EXPONENT
from sparsesim.cost.table import Group, groups

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
FOLDS = 5
OPTIONAL = ("link_j_per_byte", "sram_j_per_byte")
"""Coefficients that a table fits only where its rows move such bytes."""


@dataclass(frozen=True)
class EnergyRows:
    """Measured rows [n]: seconds, joules, clock share, and the work that the coefficients multiply."""

    time_s: Floats
    energy_j: Floats
    clock: Floats
    flop: dict[str, Floats]
    hbm_bytes: Floats
    link_bytes: Floats
    label: npt.NDArray[np.str_]
    sram_bytes: Floats
    base: Mapping[str, float] = field(default_factory=dict)

    def design(self, exponent: float) -> tuple[list[str], Floats]:
        """Names of the coefficients and the matrix [n, coefficients] of what they multiply."""
        names = ["static_w", "memory_j_per_byte"]
        parts = [self.time_s, self.hbm_bytes]
        if self.link_bytes.any():
            names.append("link_j_per_byte")
            parts.append(self.link_bytes)
        if self.sram_bytes.any():
            names.append("sram_j_per_byte")
            parts.append(self.sram_bytes * self.clock**exponent)
        for dtype, flop in self.flop.items():
            names.append(dtype)
            parts.append(flop * self.clock**exponent)
        return names, np.stack(parts, axis=1)


def energy_rows(frame: pd.DataFrame, model: CostModel) -> EnergyRows | None:
    """The rows of a table with measured energy; none where there are too few to fit."""
    own = frame[(frame["measured_energy_j"] != "") & (frame["measured_time_s"] != "")].reset_index(drop=True)
    n = len(own)
    if n < 8:
        return None
    hbm, link, sram, label = np.zeros(n), np.zeros(n), np.zeros(n), np.full(n, "", object)
    flop: dict[str, Floats] = {}
    used = np.zeros(n, bool)
    for group in groups(own):
        if not isinstance(group, Group):
            continue
        cost = model.cost(group.op)
        form: Any = FORMS[group.op.op]
        parameters = {q.name: q.start for q in form.parameters}
        timing = form.timing(group.op, parameters, model.chip)
        dtype = group.op.compute_dtype()
        flop.setdefault(dtype, np.zeros(n))[group.rows] = np.broadcast_to(timing.flop_executed, group.rows.shape)
        hbm[group.rows], link[group.rows] = cost.hbm_bytes, cost.link_bytes
        sram[group.rows] = timing.sram_bytes
        label[group.rows] = group.op.op
        used[group.rows] = True
    clocks = _column(own, "clock_mhz") * 1e6 / model.gpu.clock.max.value
    clock = np.where(np.isfinite(clocks) & (clocks > 0.1), np.minimum(clocks, 1.0), 1.0)
    time, joules = _column(own, "measured_time_s"), _column(own, "measured_energy_j")
    kept = {d: f[used] for d, f in flop.items() if f.any()}
    return EnergyRows(
        time[used], joules[used], clock[used], kept, hbm[used], link[used], label[used].astype(str), sram[used]
    )


def flat(base: Mapping[str, Any]) -> dict[str, float]:
    """Coefficients of a fit by the names of the design's columns."""
    names = ("static_w", "memory_j_per_byte", *OPTIONAL)
    own = {name: float(base[name]) for name in names if name in base}
    return own | {dtype: float(value) for dtype, value in base.get("compute_j_per_flop", {}).items()}


def _column(frame: pd.DataFrame, name: str) -> Floats:
    if name not in frame:
        return np.full(len(frame), np.nan)
    return np.array([float(cell) if cell else np.nan for cell in frame[name]])


def fit_energy(rows: EnergyRows, cap_w: float, base: Mapping[str, Any]) -> dict[str, Any]:
    """Coefficients, their errors on left-out fifths (percent), and the cap's mean power where it was reached.

    Another chip's coefficients (`base`) stand in as one further row each: they hold what few rows leave open.
    """
    rows = replace(rows, base=flat(base))
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(lambda m: _solve(rows, m, None)[1], bounds=(1.0, 2.5), method="bounded")
    exponent = float(best.x) if (rows.clock < 0.95).sum() >= 4 else CLOCK_EXPONENT
    coefficients, _ = _solve(rows, exponent, None)
    errors = _left_out(rows, exponent)
    power = rows.energy_j / rows.time_s
    capped = power[power > 0.96 * cap_w]
    result: dict[str, Any] = {
        "static_w": coefficients.pop("static_w"),
        "memory_j_per_byte": coefficients.pop("memory_j_per_byte"),
        "exponent": exponent,
        "rows": len(rows.time_s),
        "half_width": float(np.quantile(np.abs(np.log1p(errors)), 0.9)),
        "errors": {"mape": 100 * float(np.mean(np.abs(errors))), "bias": 100 * float(np.mean(errors))},
    }
    result |= {name: coefficients.pop(name) for name in OPTIONAL if name in coefficients}
    if len(capped) >= 2:
        result["cap_share"] = float(np.median(capped) / cap_w)
    result["compute_j_per_flop"] = {dtype: value for dtype, value in coefficients.items() if value > 0}
    return result


def _solve(rows: EnergyRows, exponent: float, mask: npt.NDArray[np.bool_] | None) -> tuple[dict[str, float], float]:
    from scipy.optimize import nnls

    names, matrix = rows.design(exponent)
    relative = matrix / rows.energy_j[:, None]
    if mask is not None:
        relative = relative[mask]
    held = [i for i, name in enumerate(names) if rows.base.get(name)]
    prior = np.zeros((len(held), len(names)))
    for place, i in enumerate(held):
        prior[place, i] = 1.0 / rows.base[names[i]]
    relative = np.concatenate([relative, prior])
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    solution, _ = nnls(relative / scale, np.ones(len(relative)))
    loss = float(np.abs(relative / scale @ solution - 1.0).sum())
    return dict(zip(names, (solution / scale).tolist(), strict=True)), loss


def _left_out(rows: EnergyRows, exponent: float) -> Floats:
    names, matrix = rows.design(exponent)
    errors = np.zeros(len(rows.time_s))
    fold = np.arange(len(errors)) % FOLDS
    for held in range(FOLDS):
        coefficients, _ = _solve(rows, exponent, fold != held)
        own = fold == held
        errors[own] = matrix[own] @ np.array([coefficients[name] for name in names]) / rows.energy_j[own] - 1.0
    return errors
