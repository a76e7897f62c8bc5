"""Energy coefficients from rows with measured joules: static watts, J/FLOP by dtype, J/byte of memory and link.

    E = P0 t + (sum a_dtype (FLOP + s padding) + a_x SRAM bytes + a_w weight bytes) (f/f_max)^m
        + b HBM bytes + c link bytes

s being what a product with a tile's zero padding costs of a full one; with the measured time and clock, so that the
errors of the time forms stay out; relative errors, every row alike, all coefficients positive.
HBM bytes and padding are those of the time forms. The burst cap (`cost.power`) is the one that leads from the rows'
burst times to their sustained ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms import FORMS
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.power import CLOCK_EXPONENT, PowerModel, at_full_clock, clock_under_cap
from sparsesim.cost.table import Group, groups

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
FOLDS = 5
PADDING_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
OPTIONAL = ("link_j_per_byte", "sram_j_per_byte", "operand_j_per_byte")
"""Coefficients that a table fits only where its rows move such bytes."""


@dataclass(frozen=True)
class EnergyRows:
    """Measured rows [n]: seconds, joules, clock share, and the work that the coefficients multiply."""

    time_s: Floats
    energy_j: Floats
    clock: Floats
    useful: dict[str, Floats]
    padding: dict[str, Floats]
    hbm_bytes: Floats
    link_bytes: Floats
    sram_bytes: Floats
    operand_bytes: Floats
    burst_s: Floats
    core_share: Floats
    base: Mapping[str, float] = field(default_factory=dict)
    padding_share: float = 1.0

    @property
    def flop(self) -> dict[str, Floats]:
        """FLOP by dtype, padding at its share."""
        return {dtype: own + self.padding_share * self.padding[dtype] for dtype, own in self.useful.items()}

    def design(self, exponent: float) -> tuple[list[str], Floats]:
        """Names of the coefficients and the matrix [n, coefficients] of what they multiply."""
        names = ["static_w", "memory_j_per_byte"]
        parts = [self.time_s, self.hbm_bytes]
        if self.link_bytes.any():
            names.append("link_j_per_byte")
            parts.append(self.link_bytes)
        for name, moved in (("sram_j_per_byte", self.sram_bytes), ("operand_j_per_byte", self.operand_bytes)):
            if moved.any():
                names.append(name)
                parts.append(moved * self.clock**exponent)
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
    hbm, link, sram, operand, core = np.zeros((5, n))
    useful: dict[str, Floats] = {}
    padding: dict[str, Floats] = {}
    used = np.zeros(n, bool)
    for group in groups(own):
        if not isinstance(group, Group):
            continue
        cost = model.cost(group.op)
        form: Any = FORMS[group.op.op]
        parameters = {q.name: q.start for q in form.parameters}
        timing = form.timing(group.op, parameters, model.chip)
        dtype = group.op.compute_dtype()
        executed, asked = np.asarray(timing.flop_executed, float), np.asarray(group.op.flop(), float)
        useful.setdefault(dtype, np.zeros(n))[group.rows] = np.minimum(asked, executed)
        padding.setdefault(dtype, np.zeros(n))[group.rows] = np.maximum(executed - asked, 0.0)
        hbm[group.rows], link[group.rows] = cost.hbm_bytes, cost.link_bytes
        sram[group.rows], operand[group.rows] = cost.sram_bytes, cost.operand_bytes
        core[group.rows] = np.minimum(timing.compute_s / np.asarray(timing.time_s), 1.0)
        used[group.rows] = True
    clocks = _column(own, "clock_mhz") * 1e6 / model.gpu.clock.max.value
    clock = np.where(np.isfinite(clocks) & (clocks > 0.1), np.minimum(clocks, 1.0), 1.0)
    time, joules = _column(own, "measured_time_s"), _column(own, "measured_energy_j")
    computing = [d for d in useful if useful[d].any()]
    burst: Floats = own["alternatives"].str.extract(r"burst=([0-9.e+-]+)")[0].to_numpy(dtype=np.float64)
    return EnergyRows(
        time[used],
        joules[used],
        clock[used],
        {d: useful[d][used] for d in computing},
        {d: padding[d][used] for d in computing},
        hbm[used],
        link[used],
        sram[used],
        operand[used],
        burst[used],
        core[used],
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

    Another chip's coefficients (`base`) stand in as one further row each: they hold what few rows leave open. Its share
    of padding is taken over.
    """
    shares = (base["padding_share"],) if "padding_share" in base else PADDING_SHARES
    tried = [_exponent(replace(rows, base=flat(base), padding_share=share)) for share in shares]
    rows, exponent, _ = min(tried, key=lambda one: one[2])
    coefficients, _ = _solve(rows, exponent, None)
    errors = _left_out(rows, exponent)
    power = rows.energy_j / rows.time_s
    capped = power[power > 0.96 * cap_w]
    result: dict[str, Any] = {
        "static_w": coefficients.pop("static_w"),
        "memory_j_per_byte": coefficients.pop("memory_j_per_byte"),
        "exponent": exponent,
        "padding_share": rows.padding_share,
        "rows": len(rows.time_s),
        "half_width": float(np.quantile(np.abs(np.log1p(errors)), 0.9)),
        "errors": {"mape": 100 * float(np.mean(np.abs(errors))), "bias": 100 * float(np.mean(errors))},
    }
    result |= {name: coefficients.pop(name) for name in OPTIONAL if name in coefficients}
    if len(capped) >= 2:
        result["cap_share"] = float(np.median(capped) / cap_w)
        result |= _burst_cap(rows, result, coefficients, exponent, cap_w)
    result["compute_j_per_flop"] = {dtype: value for dtype, value in coefficients.items() if value > 0}
    return result


def _exponent(rows: EnergyRows) -> tuple[EnergyRows, float, float]:
    """The rows, the clock exponent that suits them best, and the loss there."""
    from scipy.optimize import minimize_scalar

    if (rows.clock < 0.95).sum() < 4:
        return rows, CLOCK_EXPONENT, _solve(rows, CLOCK_EXPONENT, None)[1]
    best = minimize_scalar(lambda m: _solve(rows, m, None)[1], bounds=(1.0, 2.5), method="bounded")
    return rows, float(best.x), float(best.fun)


def _burst_cap(
    rows: EnergyRows, found: Mapping[str, Any], flop: Mapping[str, float], exponent: float, cap_w: float
) -> dict[str, float]:
    """Burst cap over cap that best leads from burst to sustained times, with its error in percent; none on few rows."""
    from scipy.optimize import minimize_scalar

    own = np.isfinite(rows.burst_s) & (rows.energy_j / rows.time_s > 0.96 * cap_w)
    if own.sum() < 4:
        return {}
    core_j = rows.sram_bytes * found.get("sram_j_per_byte", 0.0) + sum(rows.flop[d] * flop[d] for d in rows.flop)
    core_j = core_j + rows.operand_bytes * found.get("operand_j_per_byte", 0.0)
    rest_j = rows.hbm_bytes * found["memory_j_per_byte"] + rows.link_bytes * found.get("link_j_per_byte", 0.0)
    work = (rows.burst_s[own], (rows.core_share * rows.burst_s)[own], core_j[own], rest_j[own])

    def log_errors(share: float) -> Floats:
        """Predicted over measured sustained times, in log."""
        power = PowerModel(
            found["static_w"],
            0.0,
            cap_w * found["cap_share"],
            0.0,
            0.0,
            0.0,
            exponent=exponent,
            burst_cap_w=share * cap_w,
        )
        time, core = at_full_clock(*work, power)
        clock = clock_under_cap(time, core, *work[2:], power)
        return np.asarray(np.log((time + core * (1.0 / clock - 1.0)) / rows.time_s[own]))

    best = minimize_scalar(lambda share: float(np.abs(log_errors(share)).sum()), bounds=(1.0, 2.0), method="bounded")
    return {"burst_cap_share": float(best.x), "sustained_mape": 100 * float(np.mean(np.abs(log_errors(best.x))))}


def _solve(rows: EnergyRows, exponent: float, mask: npt.NDArray[np.bool_] | None) -> tuple[dict[str, float], float]:
    from scipy.optimize import nnls

    names, matrix = rows.design(exponent)
    kept = np.ones(len(matrix), bool) if mask is None else mask
    relative = matrix[kept] / rows.energy_j[kept, None]
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
