"""From measurements to a profile's constants: `fit_folder` makes what hwprofiles/fits/NAME.json holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.calibrate.fit.crossvalidate import class_fit, cross_validate
from sparsesim.calibrate.fit.energy import energy_rows, fit_energy
from sparsesim.calibrate.fit.least_squares import prior_of, solve
from sparsesim.calibrate.fit.rows import Sample, by_class, data_hash, launch_s, measured
from sparsesim.cost.fitted import ClassFit, Fit, load_fit
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.power import energy_figures, figures_behind, power_model
from sparsesim.hardware.device.gpu import Gpu

LEAST_ROWS = 6
"""Rows below which a class keeps its starting values."""
FALLBACK_RATIO = 0.35
"""Median |log ratio| of a layer above which its kernel is a fall-back, reported apart (facts: fitting recipe 4)."""


def fit_folder(folder: Path, gpu: Gpu, note: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Fit every kernel class measured in a folder, and the energy coefficients.

    Raises:
        InputError: the folder holds no measurements.

    """
    frame = measured(folder)
    classes, notes = by_class(frame)
    for line in notes:
        note(line)
    base = load_fit(gpu.fit_base) if gpu.fit_base else Fit()
    fitted = {name: _one(name, samples, gpu, base, note) for name, samples in sorted(classes.items())}
    known = {name: (raw, fit) for name, (raw, fit) in fitted.items() if fit is not None}
    fit = Fit(name=gpu.name, classes={name: own for name, (_, own) in known.items()})
    model = CostModel(gpu, gpu.chip(), fit, power_model(gpu, fit))
    rows = energy_rows(frame, model) if "measured_energy_j" in frame else None
    energy = fit_energy(rows, gpu.power.cap.value, base.energy) if rows is not None else {}
    return {
        "profile": gpu.name,
        "data": {"folder": _relative(folder), "sha256": data_hash(folder), "rows": len(frame)},
        "classes": {name: raw for name, (raw, _) in known.items()},
        "energy": energy | {"of": figures_behind(energy, energy_figures(gpu))} if energy else {},
        "launch_s": launch_s(frame),
    }


def _relative(folder: Path) -> str:
    parts = folder.resolve().parts
    return "/".join(parts[parts.index("calibration") :]) if "calibration" in parts else folder.name


def _one(
    name: str, samples: list[Sample], gpu: Gpu, base: Fit, note: Callable[[str], None]
) -> tuple[dict[str, Any], ClassFit | None]:
    chip, rows = gpu.chip(), sum(len(sample) for sample in samples)
    if rows < LEAST_ROWS:
        note(f"{name}: {rows} rows are too few to fit, {LEAST_ROWS} needed")
        return {}, None
    below = base.classes.get(name)
    prior = prior_of(samples[0].form, below.parameters if below else None)
    solution = solve(samples, chip, prior)
    errors, half = cross_validate(samples, solution, chip, prior)
    fit = replace(class_fit(samples, solution, chip), half_width=half)
    note(f"{name}: {rows} rows, left-out layers {errors.table()['mape']:.1f} %")
    raw = {
        "parameters": solution.parameters,
        "covariance": solution.covariance,
        "on_bound": solution.on_bound,
        "half_width": half,
        "rows": rows,
        "distance": fit.distance,
        "errors": errors.table(),
        "residuals": {
            "coordinates": np.round(fit.coordinates, 3).tolist(),
            "log_ratio": np.round(fit.log_ratio, 5).tolist(),
        },
    }
    return raw, fit


def write_fit(fitted: dict[str, Any], path: Path) -> None:
    """Write a fit atomically, one class a line for readable diffs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "{",
        f'"profile": {json.dumps(fitted["profile"])},',
        f'"data": {json.dumps(fitted["data"])},',
        f'"energy": {json.dumps(fitted["energy"])},',
        f'"launch_s": {json.dumps(fitted["launch_s"])},',
        '"classes": {',
        ",\n".join(f"{json.dumps(name)}: {json.dumps(raw)}" for name, raw in fitted["classes"].items()),
        "}}",
    ]
    part = path.with_suffix(".json.part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)
