"""Columns of records as numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsesim.sim.records import Columns
from sparsesim.sim.steps import Floats


def floats(columns: Columns, name: str) -> Floats:
    """A numeric column as float64."""
    return np.asarray(columns[name], dtype=np.float64)


def whole(columns: Columns, name: str) -> npt.NDArray[np.int64]:
    """A column of whole numbers as int64."""
    return np.asarray(columns[name], dtype=np.int64)


def by_replica(steps: Columns) -> dict[int, npt.NDArray[np.int64]]:
    """The rows of each replica that has any, in the order they stand in."""
    replica = whole(steps, "replica")
    order = np.argsort(replica, kind="stable")
    names, firsts = np.unique(replica[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, firsts[1:]), strict=True)) if len(names) else {}
