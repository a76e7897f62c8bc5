"""A replica that was measured while it was kept full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.steady import Steady, steady
from sparsesim.cost.step import ReplicaSteps
from sparsesim.loading import data_root
from sparsesim.scenario import Scenario
from sparsesim.system import PoolSystem, single_pool

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """A replica held at `running` sequences of a prompt and an output; what was not measured is NaN.

    `group` is the table it stands under in the error report, `name` what tells it from its neighbours.
    """

    group: str
    name: str
    model: str
    steps: ReplicaSteps
    running: int
    prompt_tok: int
    output_tok: float
    budget_tok: int
    median_itl_s: float = float("nan")
    output_tok_per_s: float = float("nan")
    power_w: float = float("nan")

    def predicted(self, steps: ReplicaSteps | None = None) -> Steady:
        """The same in closed form, under other step costs where given."""
        return steady(steps or self.steps, self.running, self.prompt_tok, self.output_tok, self.budget_tok)

    def log_ratios(self, found: Steady) -> Floats:
        """log(predicted / measured) of gap, time a token and power; NaN where nothing was measured."""
        return np.log(
            [
                found.median_itl_s / self.median_itl_s,
                self.output_tok_per_s / found.output_tok_per_s,
                sum(found.power_w.values()) / self.power_w,
            ]
        )


def halves(rows: Sequence[Observation]) -> npt.NDArray[np.int64]:
    """0 or 1 for each row by its model's place among the names: each half is fitted, the other scored."""
    names = sorted({row.model for row in rows})
    return np.array([names.index(row.model) % 2 for row in rows])


@dataclass(frozen=True, slots=True)
class Unexpressed:
    """Rows that are not predicted, and why."""

    group: str
    rows: int
    reason: str


@lru_cache(maxsize=64)
def _system(model: str, hardware: str, engine: str, layout: tuple[tuple[str, int], ...], precision: str) -> PoolSystem:
    values: dict[str, Any] = {
        "model": model,
        "deployment": {"hardware": hardware, "engine": engine, **dict(layout)},
        "workload": {"kind": "static", "batch": 1, "context": "16 tok"},
    }
    if precision:
        values["precision"] = dict(part.split("=") for part in precision.split())
    return single_pool(Scenario.of(values))


def system(model: str, hardware: str, engine: str, layout: Mapping[str, int], precision: str = "") -> PoolSystem:
    """A replica by its layout; `precision` as `weights=fp8 activations=fp8 kv=fp8`, else the model's own."""
    return _system(model, hardware, engine, tuple(sorted(layout.items())), precision)


def published_table(name: str) -> Any:
    """One of the shipped tables of published figures as a data frame."""
    import pandas as pd

    return pd.read_csv(data_root() / "calibration" / "published" / f"{name}.csv")
