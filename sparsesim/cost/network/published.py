"""The published rows that the network's figures are fitted to: calibration/published/comm_measured.csv."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

from sparsesim.errors import InputError, Problem
from sparsesim.loading import data_root
from sparsesim.work import dtype_bytes

PATH = "calibration/published/comm_measured.csv"
LOW_LATENCY = "moe_all2all_low_latency"
ONE_SIDED = "moe_all2all_one_sided"
_SCALED_FP8 = {"fp8": 1.0 + 4.0 / 128.0, "mxfp8": 1.0 + 1.0 / 32.0}
"""Bytes per element with scales: fp32 per 128 (DeepSeek-V3), 8 bits per 32 (OCP MX 1.0)."""
_ROUTING_BYTES = {LOW_LATENCY: 16.0, ONE_SIDED: 0.0}
"""Bytes a message carries besides its payload (one-sided rows state bytes per token without)."""


@dataclass(frozen=True, slots=True)
class ExpertRow:
    """One measured dispatch or combine."""

    ep: int
    nodes: int
    tokens: float
    top_k: int
    op: str
    token_bytes: float
    dtype: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BusRow:
    """One published bus or NIC bandwidth."""

    op: str
    topology: str
    source: str
    bytes_per_s: float


def data_hash(path: Path | None = None) -> str:
    """SHA-256 of the file."""
    return hashlib.sha256((path or data_root() / PATH).read_bytes()).hexdigest()


def read(path: Path | None = None) -> list[dict[str, str]]:
    """All rows as text.

    Raises:
        InputError: the file cannot be read.

    """
    file = path or data_root() / PATH
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", place=str(file))) from None


def expert_rows(category: str, path: Path | None = None) -> list[ExpertRow]:
    """Latency rows of a category; bandwidth rows repeat them and are left out."""
    rows = [row for row in read(path) if row["category"] == category and row["metric"] == "latency"]
    return [_expert_row(row) for row in rows]


def _expert_row(row: dict[str, str]) -> ExpertRow:
    dtype = row["dtype_dispatch"] if row["op"] == "dispatch" else row["dtype_combine"]
    per_element = _SCALED_FP8.get(dtype) or dtype_bytes(dtype)
    return ExpertRow(
        ep=int(row["ep_size"]),
        nodes=int(row["n_nodes"]) if row["category"] == LOW_LATENCY else 1,
        tokens=float(row["tokens_per_rank"]),
        top_k=int(row["topk"]),
        op=row["op"],
        token_bytes=float(row["hidden"]) * per_element + _ROUTING_BYTES[row["category"]],
        dtype=dtype,
        seconds=float(row["value"]) * 1e-6,
    )


def bus_rows(path: Path | None = None) -> list[BusRow]:
    """Rows with a bandwidth; a range counts as its middle, formulas are left out."""
    found = []
    for row in read(path):
        if row["category"] == "nccl" and row["unit"] == "GB/s":
            ends = [float(end) for end in row["value"].split("-")]
            found.append(BusRow(row["op"], row["topology"], row["source"], sum(ends) / len(ends) * 1e9))
    return found
