"""A table of ops in, the same table with time, energy, interval, bound and provenance out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsesim.cost.kernel import BOUNDS, CostModel
from sparsesim.cost.table import Group, groups, read_table
from sparsesim.errors import InputError, Problem, closest
from sparsesim.work import OPS, columns

if TYPE_CHECKING:
    import pandas as pd

ANSWERS = ("time_s", "energy_j", "time_low_s", "time_high_s", "energy_low_j", "energy_high_j", "bound", "provenance")
BESIDE = (
    "group",
    "note",
    "hardware",
    "backend",
    "alternatives",
    "samples",
    "spread",
    "calls_per_sample",
    "buffer_sets",
    "max_abs_error",
    "relative_error",
    "nccl_nvls_enable",
    "busiest_rows",
)
"""Columns that measured tables carry beside those of their ops."""
FIGURE = re.compile(r"\w+_(?:s|us|j|w|c|mhz|mb)")
"""A column of measured figures, named with its unit."""
ENERGY_HALF_WIDTH = 0.12
"""Added in quadrature for the energy coefficients where the fit holds no error of its own."""


def read_ops(path: str | Path) -> pd.DataFrame:
    """A table of ops to be answered (`read_table`), with no column that nothing would read.

    Raises:
        InputError: the file cannot be read, or a column is neither an op's, nor a figure, nor one of `BESIDE`.

    """
    frame = read_table(path)
    own = {name for op in OPS.values() for name in columns(op)}
    known = {"op", *own, *BESIDE, *ANSWERS}
    wrong = [name for name in frame.columns if name not in known and not FIGURE.fullmatch(name)]
    if wrong:
        place, accepted = str(path), {"op", *own, "group", "note"}
        raise InputError([Problem(f"unknown column {n!r}", place=place, hint=closest(n, accepted)) for n in wrong])
    return frame


def predict(frame: pd.DataFrame, model: CostModel) -> pd.DataFrame:
    """The rows in their order with `ANSWERS` added.

    Rows that are not covered keep empty answers and say why in `provenance`.

    Raises:
        InputError: a `hardware` column names another chip.

    """
    _check_hardware(frame, model.gpu.name)
    n = len(frame)
    numbers = {name: np.full(n, np.nan) for name in ANSWERS[:6]}
    bound, provenance = np.full(n, "", object), np.full(n, "", object)
    for group in groups(frame.reset_index(drop=True)):
        if not isinstance(group, Group):
            provenance[group.rows] = f"uncovered: {group.reason}"
            continue
        try:
            cost = model.cost(group.op)
        except (InputError, ValueError) as error:
            provenance[group.rows] = f"uncovered: {error}"
            continue
        error_j = np.hypot(cost.half_width, model.fit.energy.get("half_width", ENERGY_HALF_WIDTH))
        answers = (
            cost.time_s,
            cost.energy_j,
            cost.time_s * np.exp(-cost.half_width),
            cost.time_s * np.exp(cost.half_width),
            cost.energy_j * np.exp(-error_j),
            cost.energy_j * np.exp(error_j),
        )
        for name, values in zip(ANSWERS[:6], answers, strict=True):
            numbers[name][group.rows] = values
        bound[group.rows] = np.array(BOUNDS, object)[np.broadcast_to(cost.bound, group.rows.shape)]
        left = "; defaults: " + ", ".join(group.defaulted) if group.defaulted else ""
        provenance[group.rows] = f"{cost.provenance} {cost.kernel_class}{left}"
    return frame.assign(**numbers, bound=bound, provenance=provenance)


def _check_hardware(frame: pd.DataFrame, name: str) -> None:
    if "hardware" in frame.columns:
        others = sorted(set(frame["hardware"]) - {name, ""})
        if others:
            raise InputError(Problem(f"the table's rows are of {', '.join(others)}, not {name}", path="hardware"))
