"""An engine fitted on published rows, half by half.

Models are sorted by name; odd ones make one half, even ones the other. Each half is fitted and the other scored, so
that every row is predicted once by a fit that has not seen its model. The profile that ships is fitted on all rows;
its interval is what the left-out rows showed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.calibrate.engine.fit import NUMBERS, EngineFit, Number, fit_engine, ratios
from sparsesim.hardware.engine import load_engine
from sparsesim.loading import data_root
from sparsesim.published import mlenergy, tensorrt
from sparsesim.published.observation import Observation, halves

Floats = npt.NDArray[np.float64]
FIXED = {mlenergy.ENGINE: ("experts",)}
"""Numbers that an engine's rows do not identify: vLLM's two mixtures store experts in bf16 and in MXFP4, and the factor
fitted on one does not hold for the other (0.82 against 1.02), so it stays ours."""
SOURCES = {
    mlenergy.ENGINE: ("energy_measured", mlenergy.observations),
    tensorrt.ENGINE: ("e2e_measured", tensorrt.observations),
}
FITTED_GROUPS = ("maximum load", " on ")
"""Groups whose rows an engine is fitted on; the fixed-batch rows are an older version's."""


def left_out(engine: str, rows: Sequence[Observation]) -> tuple[Floats, list[EngineFit]]:
    """log(predicted / measured) of every row [rows, 3] by the fit of the other half, and both fits."""
    start, half = load_engine(engine, fitted=False), halves(rows)
    found, fits = np.full((len(rows), 3), np.nan), []
    for side in (0, 1):
        train = [row for row, own in zip(rows, half, strict=True) if own == side]
        test = np.flatnonzero(half != side)
        fit = fit_engine(start, train, numbers_of(engine))
        fits.append(fit)
        found[test] = ratios([rows[int(i)] for i in test], fit.engine)
    return found, fits


def numbers_of(engine: str) -> list[Number]:
    """The numbers that are fitted for an engine."""
    return [number for number in NUMBERS if number.name not in FIXED.get(engine, ())]


def fit_published(engine: str) -> dict[str, Any]:
    """What hwprofiles/fits/engines/NAME.json holds."""
    table, read = SOURCES[engine]
    rows = [row for row in read() if isinstance(row, Observation) and any(g in row.group for g in FITTED_GROUPS)]
    errors, fits = left_out(engine, rows)
    whole = fit_engine(load_engine(engine, fitted=False), rows, numbers_of(engine))
    path = data_root() / "calibration" / "published" / f"{table}.csv"
    return {
        "engine": engine,
        "data": {
            "table": f"calibration/published/{table}.csv",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rows": len(rows),
        },
        "values": whole.values,
        "covariance": whole.covariance,
        "half_width": half_width(errors),
        "halves": [{"values": fit.values} for fit in fits],
        "errors": {name: error_row(errors[:, i]) for i, name in enumerate(("median_itl", "s_per_tok", "power"))},
    }


def half_width(errors: Floats) -> float:
    """90 % quantile of the absolute log errors of latency, or of time a token where no latency was measured."""
    latency = errors[:, 0] if np.isfinite(errors[:, 0]).any() else errors[:, 1]
    return float(np.quantile(np.abs(latency[np.isfinite(latency)]), 0.9))


def error_row(errors: Floats) -> dict[str, float]:
    """Rows, MAPE, median, 90th percentile and bias, in percent."""
    relative = 100 * np.expm1(errors[np.isfinite(errors)])
    if not len(relative):
        return {"n": 0}
    size = np.abs(relative)
    return {
        "n": len(relative),
        "mape": float(size.mean()),
        "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)),
        "bias": float(relative.mean()),
    }


def write_engine(fitted: dict[str, Any], path: Path) -> None:
    """Write the fit atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
