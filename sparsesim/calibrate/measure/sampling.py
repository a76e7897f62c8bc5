"""Well-spread points of a box: scrambled Sobol sequences, mapped to sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.errors import InputError


@dataclass(frozen=True, slots=True)
class Axis:
    """One sampled column: a value `of` a list, or log-uniform in [low, high] and a multiple of `multiple`."""

    of: tuple[Any, ...] = ()
    low: int = 1
    high: int = 1
    multiple: int = 1

    def at(self, quantile: float) -> Any:
        """Value at a quantile in [0, 1)."""
        if self.of:
            return self.of[min(int(quantile * len(self.of)), len(self.of) - 1)]
        size = math.exp(math.log(self.low) + quantile * (math.log(self.high) - math.log(self.low)))
        return max(self.multiple, round(size / self.multiple) * self.multiple)


def axis(name: str, spec: Mapping[str, Any]) -> Axis:
    """Build an axis from its table in a suite.

    Raises:
        InputError: naming the column and what an axis may say.

    """
    if set(spec) == {"of"} and spec["of"]:
        return Axis(of=tuple(spec["of"]))
    if {"low", "high"} <= set(spec) <= {"low", "high", "multiple"} and 0 < spec["low"] <= spec["high"]:
        return Axis(low=spec["low"], high=spec["high"], multiple=spec.get("multiple", 1))
    raise InputError(
        f"sobol column {name!r}: got {dict(spec)}; accepted: of = [values], or 0 < low <= high and multiple"
    )


def points(axes: Mapping[str, Axis], seed: int) -> Iterator[dict[str, Any]]:
    """Endless scrambled Sobol points as column values; consecutive blocks of 2^i points are stratified."""
    engine = torch.quasirandom.SobolEngine(len(axes), scramble=True, seed=seed)
    while True:
        for quantiles in engine.draw(64, dtype=torch.float64).tolist():
            yield {name: a.at(q) for (name, a), q in zip(axes.items(), quantiles, strict=True)}


def strictly(mapping: Mapping[str, Any], accepted: Sequence[str], where: str) -> None:
    """Raise InputError naming the first key that is not accepted."""
    for key in mapping:
        if key not in accepted:
            raise InputError(f"{where}: unknown key {key!r}; accepted: {', '.join(accepted)}")
