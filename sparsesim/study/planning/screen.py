"""The screening: every candidate of the space answered in closed form, and what rules families of them out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.scenario import Slo
from sparsesim.study.planning.instances import Instance, caps
from sparsesim.study.planning.operate import Points, operate
from sparsesim.study.planning.sites import Role
from sparsesim.study.planning.space import PAUSING, Space, Variant

TERMS = ("ttft_s", "tpot_s", "e2e_s")
LOADS = (1.0, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Multiples of the load that are screened: the load itself, and others to say what would change the choice."""


@dataclass(frozen=True)
class Family:
    """What candidates share: the instance that serves them, or a prefill instance and `instance` for decode."""

    number: int
    instance: Instance
    prefill: Instance | None = None

    @property
    def variant(self) -> Variant:
        """The variant of the scenario."""
        return self.instance.variant

    @property
    def name(self) -> str:
        """Variant and layout, as a reader knows them."""
        own = self.instance.name
        own = f"prefill {self.prefill.name}, decode {own}" if self.prefill else own
        return f"{self.variant.name}: {own}" if self.variant.name else own

    @property
    def instances(self) -> dict[Role, Instance]:
        """By role."""
        return {"prefill": self.prefill, "decode": self.instance} if self.prefill else {"serve": self.instance}

    @property
    def fits(self) -> bool:
        """Whether it has candidates at all, as far as memory and layout go."""
        return all(one.fits for one in self.instances.values())

    @property
    def own_w(self) -> float:
        """The devices' own power cap, of two kinds the higher."""
        return max(one.own_w for one in self.instances.values())


@dataclass(frozen=True)
class Screened:
    """Candidates as columns, [candidates].

    `family` numbers the families; `replicas` do both phases, or decode beside `prefill_replicas` others (0: there are
    none); `bottleneck` says which of two pools, or their transfer, limits `most_per_s`. With pools, `max_running` and
    `running` are of decode replicas, `token_budget` of prefill replicas. `load` multiplies the workload's. `mean`
    [candidates, 3] are the means of TTFT, TPOT and end-to-end time, `high` [candidates, 3] their predicted percentiles.
    `objectives` hold money and carbon per million output tokens, energy per output token, devices and time
    (`money.LABELS`).
    """

    family: npt.NDArray[np.int64]
    replicas: npt.NDArray[np.int64]
    prefill_replicas: npt.NDArray[np.int64]
    max_running: npt.NDArray[np.int64]
    token_budget: npt.NDArray[np.int64]
    scheduler: npt.NDArray[np.str_]
    cap_w: Floats
    load: Floats
    devices: npt.NDArray[np.int64]
    mean: Floats
    high: Floats
    running: Floats
    most_per_s: Floats
    wanted_per_s: Floats
    saturated: npt.NDArray[np.bool_]
    bottleneck: npt.NDArray[np.str_]
    objectives: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.family)

    def take(self, rows: npt.NDArray[np.intp]) -> Screened:
        """Some of the candidates."""
        columns = {
            name: column[rows]
            for name in self.__dataclass_fields__
            if isinstance(column := getattr(self, name), np.ndarray)
        }
        return Screened(**columns, objectives={name: column[rows] for name, column in self.objectives.items()})


def screen(space: Space, family: Family) -> Screened | None:
    """All candidates of replicas that do both phases, under every one of `LOADS`; None where they do not fit."""
    one = family.instance
    if not one.fits:
        return None
    demand, found = one.variant.demand, []
    for cap_w in dict.fromkeys(caps(space, one.made.gpu).values()):
        over = one.curves(cap_w)
        for scheduler, budget in itertools.product(
            space.axis("serve", "scheduler"), space.axis("serve", "token_budget")
        ):
            grid = _grid(space, one, scheduler, budget)
            rate = demand.rate_per_s * grid[:, 2] / grid[:, 1]
            most = np.minimum(grid[:, 0], one.held)
            points = operate(over, demand, rate, most, one.budgets.index(budget), PAUSING[scheduler])
            found.append(_columns(family, points, grid, budget, scheduler, cap_w))
    return joined(found) if found else None


def _grid(space: Space, one: Instance, scheduler: str, budget: int) -> Floats:
    """Batch limit, replicas and load, [candidates, 3]; continuous batching needs a token for every sequence."""
    limits = [n for n in space.axis("serve", "max_running") if n <= budget or PAUSING[scheduler]]
    rows = list(itertools.product(limits, space.replicas("serve", one.layout), LOADS))
    return np.array(rows, dtype=float).reshape(-1, 3)


def _columns(family: Family, points: Points, grid: Floats, budget: int, scheduler: str, cap_w: float) -> Screened:
    count, replicas = len(grid), grid[:, 1]
    demand = family.variant.demand
    wanted = demand.rate_per_s * grid[:, 2]
    assert family.instance.rates is not None
    devices = replicas * family.instance.layout.devices
    tokens = np.minimum(wanted, points.most_per_s * replicas) * demand.load.output_tok
    return Screened(
        family=np.full(count, family.number),
        replicas=replicas.astype(np.int64),
        prefill_replicas=np.zeros(count, np.int64),
        max_running=grid[:, 0].astype(np.int64),
        token_budget=np.full(count, budget),
        scheduler=np.full(count, scheduler, dtype="<U12"),
        cap_w=np.full(count, cap_w),
        load=grid[:, 2],
        devices=devices.astype(np.int64),
        mean=np.stack([points.ttft_s, points.tpot_s, points.e2e_s], axis=-1),
        high=np.stack([points.high_ttft_s, points.high_tpot_s, points.high_e2e_s], axis=-1),
        running=points.running,
        most_per_s=points.most_per_s * replicas,
        wanted_per_s=wanted,
        saturated=points.saturated,
        bottleneck=np.full(count, "", dtype="<U8"),
        objectives=family.instance.rates.objectives(points.power_w * replicas, devices, tokens, points.e2e_s),
    )


def joined(parts: Sequence[Screened]) -> Screened:
    """Candidates of several families as one table."""
    names = [n for n in Screened.__dataclass_fields__ if n != "objectives"]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    common = [name for name in parts[0].objectives if all(name in part.objectives for part in parts)]
    return Screened(**columns, objectives={n: np.concatenate([p.objectives[n] for p in parts]) for n in common})


def limits_of(slo: Slo) -> Floats:
    """The limits on TTFT, TPOT and end-to-end time in s; infinite where there is none."""
    return np.array([math.inf if limit is None else limit for limit in (slo.ttft, slo.tpot, slo.e2e)])
