"""Predictions held against measured values, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.kernel import cost_model
from sparsesim.cost.predict import predict, read_ops
from sparsesim.errors import InputError, Problem
from sparsesim.scenario import Hardware
from sparsesim.system import gpu_of

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
QUANTITIES = {"time": ("measured_time_s", "time_s", "time_low_s", "time_high_s"),
              "energy": ("measured_energy_j", "energy_j", "energy_low_j", "energy_high_j")}  # fmt: skip


def validate_table(table: Path, hardware: str, out: Path | None = None) -> list[dict[str, Any]]:
    """Error rows by group and quantity; with `out`, the answered table and a plot are written there.

    Raises:
        InputError: the table has nothing measured, or a measured value that is no number above zero.

    """
    frame = read_ops(table)
    if not {"measured_time_s", "measured_energy_j"} & set(frame.columns):
        raise InputError(Problem("has neither measured_time_s nor measured_energy_j", place=str(table)))
    answered = predict(frame, cost_model(gpu_of(Hardware(name=hardware))))
    group = answered["group"] if "group" in answered else answered["op"]
    names = np.where(group.to_numpy(dtype=str) == "", answered["op"].to_numpy(dtype=str), group.to_numpy(dtype=str))
    rows = []
    for name in dict.fromkeys(names.tolist()):
        part = answered[names == name]
        for quantity, columns in QUANTITIES.items():
            if columns[0] in part and (part[columns[0]] != "").any():
                rows.append({"group": name, "quantity": quantity, **_errors(part, columns, table)})
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        answered.to_csv(out / "validated.csv", index=False)
        plot(answered, names, out)
    return rows


def errors(predicted: Floats, measured: Floats, low: Floats, high: Floats) -> dict[str, float]:
    """MAPE, median, 90th percentile and bias in percent, and the share (percent) inside the interval."""
    if not len(measured):
        return dict.fromkeys(("mape", "median", "p90", "bias", "inside"), float("nan"))
    relative = predicted / measured - 1.0
    inside = (measured >= low) & (measured <= high)
    return {
        "mape": 100 * float(np.mean(np.abs(relative))),
        "median": 100 * float(np.median(np.abs(relative))),
        "p90": 100 * float(np.quantile(np.abs(relative), 0.9)),
        "bias": 100 * float(np.mean(relative)),
        "inside": 100 * float(np.mean(inside)),
    }


def _errors(part: pd.DataFrame, columns: Sequence[str], table: Path) -> dict[str, Any]:
    own = part[part[columns[0]] != ""]
    try:
        measured = own[columns[0]].astype(float).to_numpy()
    except ValueError as error:
        raise InputError(Problem(f"{columns[0]}: {error}", place=str(table))) from None
    if not (measured > 0).all():
        raise InputError(Problem(f"{columns[0]} holds a value that is not above zero", place=str(table)))
    predicted, low, high = (own[c].to_numpy(dtype=float) for c in columns[1:])
    covered = np.isfinite(predicted)
    return {
        "n": len(own),
        "covered": int(covered.sum()),
        **errors(predicted[covered], measured[covered], low[covered], high[covered]),
    }


def over_tolerance(groups: Sequence[dict[str, Any]], tolerance: float) -> list[str]:
    """Groups whose MAPE exceeds the tolerance, or that are not covered at all."""
    return [f"{row['group']} ({row['quantity']}) {row['mape']:.1f} %" for row in groups if not row["mape"] <= tolerance]


def plot(answered: pd.DataFrame, names: npt.NDArray[np.str_], out: Path) -> None:
    """Predicted against measured seconds, one colour a group, as out/validated.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own = (answered.get("measured_time_s", "") != "") & np.isfinite(answered["time_s"])
    if not np.any(own):
        return
    measured = answered.loc[own, "measured_time_s"].astype(float).to_numpy()
    predicted = answered.loc[own, "time_s"].to_numpy(dtype=float)
    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in dict.fromkeys(names[own].tolist()):
        mask = names[own] == name
        axes.loglog(measured[mask], predicted[mask], ".", label=name, markersize=4)
    ends = np.array([measured.min(), measured.max()])
    axes.loglog(ends, ends, color="0.3", linewidth=0.8)
    axes.set(xlabel="measured, s", ylabel="predicted, s")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(out / "validated.png", dpi=150)
