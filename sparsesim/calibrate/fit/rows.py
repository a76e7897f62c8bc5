"""Measured rows by kernel class."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms import FORMS, Form
from sparsesim.cost.table import Group, groups, read_table
from sparsesim.errors import InputError, Problem
from sparsesim.work import OPS, Op, columns

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

LAYER_COLUMNS: dict[str, tuple[str, ...]] = {
    "gemm": ("n", "k"),
    "attention_prefill": ("heads", "kv_heads", "head_dim", "window"),
    "attention_flash": ("heads", "kv_heads", "head_dim", "window"),
    "attention_backward": ("heads", "kv_heads", "head_dim", "window"),
    "attention_decode": ("heads", "kv_heads", "head_dim", "window"),
    "mla_decode": ("heads", "kv_rank"),
    "ssm_scan": ("heads", "head_dim", "state", "kind"),
    "ssm_step": ("heads", "head_dim", "state", "kind"),
    "moe_ffn": ("experts", "top_k", "d_ff"),
    "sparse_ffn": ("d_ff", "nnz"),
    "sparse_ffn_train": ("nnz", "tokens"),
    "threshold_gemv": ("d_in", "d_out"),
    "pointwise": ("tokens", "width"),
    "copy": ("bytes",),
    "send": ("bytes",),
    "moe_dispatch": ("tokens", "d_model"),
    "moe_combine": ("tokens", "d_model"),
}
"""What makes a layer: cross-validation leaves whole ones out. Collectives leave out sizes."""


@dataclass(frozen=True)
class Sample:
    """Rows of one op with what was measured; arrays are [rows]."""

    form: Form[Any]
    op: Op
    time_s: Floats
    layer: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, mask: npt.NDArray[np.bool_]) -> Sample:
        """Some of the rows."""
        return Sample(self.form, take(self.op, mask), self.time_s[mask], self.layer[mask])


def take(op: Op, mask: npt.NDArray[np.bool_]) -> Op:
    """An op with some of its rows."""
    arrays = {
        f.name: getattr(op, f.name)[mask] for f in dataclasses.fields(op) if isinstance(getattr(op, f.name), np.ndarray)
    }
    return dataclasses.replace(op, **arrays)


def tables(folder: Path) -> list[Path]:
    """The CSV tables of a measurement folder.

    Raises:
        InputError: there is none.

    """
    found = sorted(path for path in folder.rglob("*.csv"))
    if not found:
        raise InputError(Problem("holds no CSV of measurements", place=str(folder)))
    return found


def measured(folder: Path) -> pd.DataFrame:
    """All rows of a folder that name an op and a measured time; others (raw benchmark logs) are left aside."""
    import pandas as pd

    frames = []
    for path in tables(folder):
        header = next((line for line in path.read_text().splitlines() if not line.startswith("#")), "")
        if {"op", "measured_time_s"} <= set(header.split(",")):
            frames.append(read_table(path).assign(table=path.name))
    if not frames:
        raise InputError(Problem("no table has the columns op and measured_time_s", place=str(folder)))
    whole = pd.concat(frames, ignore_index=True).fillna("")
    return whole[whole["measured_time_s"] != ""].reset_index(drop=True)


def data_hash(folder: Path) -> str:
    """SHA-256 over the tables, names and contents."""
    digest = hashlib.sha256()
    for path in tables(folder):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def by_class(frame: pd.DataFrame) -> tuple[dict[str, list[Sample]], list[str]]:
    """Samples of every kernel class, and what could not be read."""
    classes: dict[str, list[Sample]] = {}
    notes: list[str] = []
    sustained = frame["regime"].eq("sustained") if "regime" in frame else np.zeros(len(frame), bool)
    burst = frame.loc[~np.asarray(sustained) & ~eager(frame) & ~dense_side(frame)].reset_index(drop=True)
    times: Floats = burst["measured_time_s"].to_numpy(dtype=np.float64)
    for group in groups(burst):
        if not isinstance(group, Group):
            notes.append(f"{len(group.rows)} rows left out: {group.reason}")
            continue
        form = FORMS[group.op.op]
        sample = Sample(form, group.op, times[group.rows], layers(burst, group))
        names = np.broadcast_to(np.asarray(form.kernel_class(group.op)), sample.time_s.shape)
        for name in np.unique(names):
            classes.setdefault(str(name), []).append(sample.take(names == name))
    return classes, notes


def eager(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Rows of compute kernels launched outside of graphs: they measure the launch, not the kernel."""
    if "graph" not in frame:
        return np.zeros(len(frame), bool)
    collective = frame["op"].isin([name for name, op in OPS.items() if "gpus" in columns(op)])
    return (frame["graph"].str.lower().isin(["false", "0"]) & ~collective).to_numpy(dtype=bool)


def dense_side(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Rows of a sparse FFN that was, or had best been, computed densely: they are made of other classes' kernels."""
    if not {"format", "backend"} <= set(frame.columns):
        return np.zeros(len(frame), bool)
    return (frame["format"].eq("dense") | frame["backend"].str.startswith("dense")).to_numpy(dtype=bool)


def launch_s(frame: pd.DataFrame) -> float | None:
    """Median time of the small kernels launched outside of graphs; none measured: None."""
    own = frame.loc[eager(frame), "measured_time_s"].astype(float).to_numpy()
    return float(np.median(own[own < 2 * own.min()])) if len(own) else None


def layers(frame: pd.DataFrame, group: Group) -> npt.NDArray[np.str_]:
    """The layer each row belongs to."""
    keys = LAYER_COLUMNS.get(group.op.op, ("bytes",))
    part = frame.loc[group.rows, [key for key in keys if key in frame.columns]]
    return part.agg("/".join, axis=1).to_numpy(dtype=str) if len(part.columns) else np.full(len(part), "all")


def joined(samples: Sequence[Sample]) -> tuple[Floats, npt.NDArray[np.str_], Floats]:
    """Times, layers and coordinates of several samples in a row."""
    time = np.concatenate([s.time_s for s in samples])
    layer = np.concatenate([s.layer for s in samples])
    points = np.concatenate(
        [np.broadcast_to(c, (len(s), c.shape[1])) for s in samples for c in [s.form.coordinates(s.op)]]
    )
    return time, layer, points
