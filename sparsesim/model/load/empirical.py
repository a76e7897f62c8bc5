from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from sparsesim.errors import InputError, Problem
from sparsesim.model.load.base import ExpertLoad, Floats

_SUM_TOLERANCE = 1e-3
"""Published shares are rounded to three digits."""


class Empirical(ExpertLoad):
    """A histogram: counts of tokens or shares per expert, or a routing log per layer (CSV: layer,expert,count).

    Shares must sum to 1; a log's layers stand for all layers in turn.
    """

    counts: tuple[float, ...] | None = Field(None, min_length=1, description="tokens each expert had")
    shares: tuple[float, ...] | None = Field(None, min_length=1, description="share of the tokens of each expert")
    file: Path | None = Field(None, description="routing log: CSV with columns layer, expert, count")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("counts", "shares", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of counts, shares and file, not {' and '.join(given) or 'none'}")
        values = self.counts or self.shares or (1.0,)
        if min(values) < 0 or sum(values) <= 0:
            raise ValueError(f"{given[0]}: numbers from 0 up with a positive sum, not {list(values)}")
        if self.shares and abs(sum(self.shares) - 1.0) > _SUM_TOLERANCE:
            raise ValueError(f"shares: sum to {sum(self.shares):.4g}, not to 1; give counts where they need not")
        return self

    @cached_property
    def table(self) -> Floats:
        """Popularity by layer, `[layers, experts]`.

        Raises:
            InputError: the log cannot be read; names file and line.

        """
        if self.file is not None:
            return _normalised(_read(self.file))
        return _normalised(np.array([self.counts or self.shares], float))

    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """A layer's histogram, the experts as numbered."""
        self._check(experts)
        return np.asarray(self.table[int(rng.integers(len(self.table)))])

    def popularity(self, experts: int, layer: int = 0, step: int = 0) -> Floats:
        """The layer's own histogram at every step."""
        del step
        self._check(experts)
        return np.asarray(self.table[layer % len(self.table)])

    def _check(self, experts: int) -> None:
        if self.table.shape[1] != experts:
            raise InputError(Problem(f"the histogram has {self.table.shape[1]} experts, the model {experts}"))


def _normalised(counts: Floats) -> Floats:
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _read(file: Path) -> Floats:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot be read: {error}", place=str(file))) from None
    found: dict[tuple[int, int], float] = {}
    for line, row in enumerate(rows, start=2):
        try:
            key, count = (int(row["layer"]), int(row["expert"])), float(row["count"])
        except (KeyError, TypeError, ValueError):
            hint = "columns layer, expert, count; whole numbers and a number"
            raise InputError(Problem(f"not a row of a routing log: {row}", place=f"{file}:{line}", hint=hint)) from None
        if count < 0 or min(key) < 0:
            raise InputError(Problem(f"negative number in {row}", place=f"{file}:{line}"))
        found[key] = found.get(key, 0.0) + count
    return _table(found, file)


def _table(found: dict[tuple[int, int], float], file: Path) -> Floats:
    if not found:
        raise InputError(Problem("holds no row", place=str(file)))
    layers = sorted({layer for layer, _ in found})
    table = np.zeros((len(layers), max(expert for _, expert in found) + 1))
    for (layer, expert), count in found.items():
        table[layers.index(layer), expert] = count
    empty = [layer for layer, row in zip(layers, table, strict=True) if row.sum() == 0]
    if empty:
        raise InputError(Problem(f"layers {empty} have no tokens", place=str(file)))
    return table
