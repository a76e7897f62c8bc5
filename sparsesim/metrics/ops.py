"""The ops of a step as a table: what each asks for, what it costs, and the roofs above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sparsesim.cost.accumulate import Priced
from sparsesim.cost.kernel import BOUNDS
from sparsesim.hardware.device.gpu import Chip
from sparsesim.sim.records import Columns

AMOUNTS = ("time_s", "flop", "hbm_bytes", "link_bytes", "compute_j", "memory_j", "link_j", "static_j")


def ops_columns(phases: Mapping[str, Sequence[Priced]], chip: Chip) -> Columns:
    """One row per task of each phase's step on one device; amounts are those of all its launches."""
    rows = [(phase, item) for phase, priced in phases.items() for item in priced]
    columns: Columns = {
        "phase": np.array([phase for phase, _ in rows], dtype=str),
        "part": np.array([item.task.part for _, item in rows], dtype=str),
        "op": np.array([item.task.op.op for _, item in rows], dtype=str),
        "dtype": np.array([item.task.op.compute_dtype() for _, item in rows], dtype=str),
        "count": np.array([item.task.count for _, item in rows], dtype=np.float64),
    }
    for name in AMOUNTS:
        each = [item.task.count * float(np.sum(getattr(item.cost, name))) for _, item in rows]
        columns[name] = np.array(each, dtype=np.float64)
    columns["bound"] = np.array([BOUNDS[int(np.ravel(item.cost.bound)[0])] for _, item in rows], dtype=str)
    columns["half_width"] = np.array([float(np.mean(item.cost.half_width)) for _, item in rows])
    columns["provenance"] = np.array([item.cost.provenance for _, item in rows], dtype=str)
    columns["peak_flop_per_s"] = np.array([chip.peak(item.task.op.compute_dtype()) for _, item in rows])
    columns["peak_bytes_per_s"] = np.full(len(rows), chip.bandwidth_bytes_per_s)
    return columns
