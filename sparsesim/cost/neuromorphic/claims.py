"""Published figures of neuromorphic chips and edge GPUs, row by row, and the ratios between them.

A ratio means nothing without its phase, length, batch, baseline and whether its parts were measured: `Ratio` carries
them all. `python -m sparsesim.cost.neuromorphic.claims` prints the published ones as a table.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sparsesim.cost.neuromorphic.densities import Phase, known_phase
from sparsesim.errors import InputError, Problem
from sparsesim.loading import data_root

TABLE = "claims_neuromorphic_ssm.csv"
_WORKLOAD = re.compile(r"(?P<phase>generate|prefill), seq (?P<length>\d+)")
_UNITS = {"tokens/s": 1.0, "mJ/token": 1e-3}


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure in SI units: tokens/s or J/token."""

    id: str
    source: str
    hardware: str
    model: str
    phase: Phase
    length_tok: int
    metric: str
    value: float
    kind: str
    note: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better `subject` is than `baseline`, and under which conditions."""

    quantity: str
    value: float
    phase: Phase
    length_tok: int
    batch: str
    subject: str
    subject_kind: str
    baseline: str
    baseline_kind: str
    source: str


def published_rows(table: str = TABLE) -> tuple[dict[str, str], ...]:
    """All rows of a table in calibration/published.

    Raises:
        InputError: there is no such table.

    """
    return _rows(data_root() / "calibration" / "published" / table)


@lru_cache(maxsize=8)
def _rows(path: Path) -> tuple[dict[str, str], ...]:
    if not path.is_file():
        raise InputError(Problem("no such table of published figures", place=str(path)))
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def claims(rows: Iterable[dict[str, str]]) -> tuple[Claim, ...]:
    """The rows that give throughput or energy of a phase at a length; the others hold single figures."""
    found = []
    for row in rows:
        match = _WORKLOAD.fullmatch(row["workload"])
        if match and row["unit"] in _UNITS:
            found.append(_claim(row, match))
    return tuple(found)


def _claim(row: dict[str, str], match: re.Match[str]) -> Claim:
    projected = row["note"].startswith("PROJECTED")
    return Claim(
        id=row["id"],
        source=row["source"],
        hardware=row["hardware"],
        model=row["model"],
        phase=known_phase(match["phase"]),
        length_tok=int(match["length"]),
        metric=row["metric"],
        value=float(row["value"]) * _UNITS[row["unit"]],
        kind="projected" if projected else "measured",
        note=row["note"],
    )


def figure(row_id: str, rows: Sequence[dict[str, str]] | None = None) -> float:
    """The value of one row, in the row's own unit.

    Raises:
        InputError: no row has that id.

    """
    for row in published_rows() if rows is None else rows:
        if row["id"] == row_id:
            return float(row["value"])
    raise InputError(Problem(f"no published row {row_id!r}", place=TABLE))


def ratios(subject: Sequence[Claim], baseline: Sequence[Claim]) -> tuple[Ratio, ...]:
    """Subject against baseline wherever phase, length and metric agree: above 1 the subject is better."""
    by_case = {(c.phase, c.length_tok, c.metric): c for c in baseline}
    found = []
    for own in subject:
        other = by_case.get((own.phase, own.length_tok, own.metric))
        if other is not None:
            found.append(_ratio(own, other))
    return tuple(found)


def _ratio(own: Claim, other: Claim) -> Ratio:
    throughput = own.metric == "throughput"
    value = own.value / other.value if throughput else other.value / own.value
    unstated = "batch not stated" in own.note or "batch not stated" in other.note
    return Ratio(
        quantity="throughput" if throughput else "energy per token",
        value=value,
        phase=own.phase,
        length_tok=own.length_tok,
        batch="1 against an unstated batch" if unstated else "1",
        subject=f"{own.model} on {own.hardware}",
        subject_kind=own.kind,
        baseline=f"{other.model} on {other.hardware}",
        baseline_kind=other.kind,
        source=own.source,
    )


def select(all_claims: Iterable[Claim], model: str, hardware: str) -> tuple[Claim, ...]:
    """Claims of one model (by the beginning of its name) on one device."""
    return tuple(c for c in all_claims if c.model.startswith(model) and c.hardware == hardware)


PAIRS = (
    (("MMFreeLM-370M sparse", "Loihi 2 x24"), ("MMFreeLM-370M dense", "Loihi 2 x24")),
    (("MMFreeLM-370M sparse", "Loihi 2 x24"), ("Qwen2-500M", "Jetson Orin Nano")),
    (("MMFreeLM-370M sparse", "Loihi 2 x24"), ("Alireo-400M", "Jetson Orin Nano")),
    (("MMFreeLM-370M sparse", "Loihi 2 x24"), ("MMFreeLM-370M dense", "H100")),
    (("MMFreeLM-370M dense", "Loihi 2 x24"), ("Qwen2-500M", "Jetson Orin Nano")),
)
"""Comparisons that the publications make or invite: subject, baseline."""


def published_ratios() -> tuple[Ratio, ...]:
    """Every ratio of `PAIRS`, at every phase and length."""
    table = claims(published_rows())
    return tuple(r for own, other in PAIRS for r in ratios(select(table, *own), select(table, *other)))


def markdown(found: Iterable[Ratio]) -> str:
    """A table with every condition beside every ratio."""
    lines = ["| ratio | of | phase | length | batch | subject | baseline |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r.value:.1f}x | {r.quantity} | {r.phase} | {r.length_tok} tok | {r.batch} "
        f"| {r.subject} ({r.subject_kind}) | {r.baseline} ({r.baseline_kind}) |"
        for r in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(published_ratios()))
