"""The screening: every candidate of the space answered in closed form, and what rules families of them out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.cost.memory import MemoryPlan, plan_memory
from sparsesim.errors import InputError
from sparsesim.scenario import Scenario, Slo
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import Curves, curves, priced
from sparsesim.study.planning.money import Rates, rates_of
from sparsesim.study.planning.operate import Points, operate
from sparsesim.study.planning.space import PAUSING, Layout, Space, Variant
from sparsesim.system import PoolSystem, single_pool

TERMS = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class Family:
    """A layout of a variant: what its candidates share. `reason` says why it has none."""

    number: int
    variant: Variant
    layout: Layout
    devices: int
    system: PoolSystem | None
    plan: MemoryPlan | None
    rates: Rates | None
    reason: str = ""
    missing_bytes: float = 0.0

    @property
    def name(self) -> str:
        """Variant and layout, as a reader knows them."""
        return f"{self.variant.name}: {self.layout}" if self.variant.name else str(self.layout)


@dataclass(frozen=True)
class Screened:
    """Candidates as columns, [candidates].

    `family` numbers the families; `high` [candidates, 3] are the predicted percentiles of TTFT, TPOT and end-to-end
    time, `mean` [candidates, 3] the means; `ratio` is the largest predicted percentile over its limit; money and
    energy are per million output tokens and per output token.
    """

    family: npt.NDArray[np.int64]
    replicas: npt.NDArray[np.int64]
    max_running: npt.NDArray[np.int64]
    token_budget: npt.NDArray[np.int64]
    scheduler: npt.NDArray[np.str_]
    cap_w: Floats
    devices: npt.NDArray[np.int64]
    mean: Floats
    high: Floats
    running: Floats
    most_per_s: Floats
    wanted_per_s: Floats
    saturated: npt.NDArray[np.bool_]
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


def families(space: Space) -> Iterator[Family]:
    """Every layout of every variant, with the reason where it cannot be."""
    for variant in space.variants:
        for layout in space.layouts(variant):
            yield _family(space, variant, layout)


def _family(space: Space, variant: Variant, layout: Layout) -> Family:
    blank = Family(0, variant, layout, layout.devices, None, None, None)
    try:
        scenario = laid_out(variant.scenario, layout)
        system = single_pool(scenario)
        plan = memory_of(system, max(space.axes["max_running"]))
    except InputError as error:
        return replace(blank, reason="; ".join(problem.message for problem in error.problems))
    missing = missing_bytes(plan)
    rates = rates_of(scenario, system)
    return replace(blank, system=system, plan=plan, rates=rates, missing_bytes=missing)


def laid_out(scenario: Scenario, layout: Layout) -> Scenario:
    """The scenario with one replica of a layout."""
    settings = {f"deployment.{name}": value for name, value in layout._asdict().items()}
    return varied(scenario, {**settings, "deployment.replicas": 1, "power.cap": None})


def memory_of(system: PoolSystem, max_running: int) -> MemoryPlan:
    """The memory of a replica, whether or not it fits."""
    settings = system.pool.memory
    return plan_memory(
        system.model,
        system.setting,
        system.costs.chip.capacity_bytes,
        utilisation=settings.utilisation,
        reserve_bytes=system.engine.reserve.value,
        block_tok=round(settings.block),
        max_running=max_running,
        kv_blocks=settings.kv_blocks,
    )


def missing_bytes(plan: MemoryPlan) -> float:
    """Bytes that a device lacks for weights, reserve and one block of every kind; 0 where it fits."""
    least = plan.block_bytes * len(plan.kv_windows) + plan.state_bytes
    return max(least - plan.free_bytes, 0.0)


def concurrency(plan: MemoryPlan, context_tok: float) -> float:
    """Sequences of a context that the replica's cache and states hold."""
    blocks = sum(math.ceil(min(context_tok, window) / plan.block_tok) for window in plan.kv_windows)
    by_cache = plan.kv_blocks / blocks if blocks else math.inf
    return max(min(by_cache, plan.state_slots if plan.state_bytes > 0 else math.inf), 1.0)


@dataclass
class Screening:
    """Screens families, keeping their curves: another load on the same lengths costs next to nothing."""

    space: Space
    _curves: dict[tuple[int, float], Curves] = field(default_factory=dict, repr=False)

    def screen(self, family: Family, load: float = 1.0) -> Screened | None:
        """All candidates of a family that fits, under `load` times the requests."""
        if family.system is None or family.plan is None or family.missing_bytes > 0:
            return None
        found = []
        for cap_w in self._caps(family):
            over = self.curves(family, cap_w)
            for scheduler in self.space.axes["scheduler"]:
                for place, budget in enumerate(self.space.axes["token_budget"]):
                    grid = self._grid(family, scheduler, budget)
                    if len(grid):
                        points = self._points(family, over, grid, load, place, PAUSING[scheduler])
                        found.append(_columns(family, points, grid, budget, scheduler, cap_w, load))
        return joined(found) if found else None

    def curves(self, family: Family, cap_w: float) -> Curves:
        """The family's curves under a power cap."""
        if (family.number, cap_w) not in self._curves:
            assert family.system is not None
            steps, axes = family.system.steps, self.space.axes
            parts = priced(steps, family.variant.demand.load, axes["token_budget"], max(axes["max_running"]))
            own = steps.costs.power
            for one in self._caps(family):
                power = replace(own, cap_w=own.cap_w * one / family.system.gpu.power.cap.value)
                self._curves[family.number, one] = curves(steps, parts, power)
        return self._curves[family.number, cap_w]

    def _caps(self, family: Family) -> list[float]:
        """Power caps that the devices can have, their own for none."""
        assert family.system is not None
        own_w = family.system.gpu.power.cap.value
        caps = [own_w if cap is None else cap for cap in self.space.axes["cap"]]
        return list(dict.fromkeys(cap for cap in caps if cap <= own_w))

    def _grid(self, family: Family, scheduler: str, budget: int) -> npt.NDArray[np.int64]:
        """Batch limits and numbers of replicas; continuous batching needs a token for every sequence."""
        limits = [n for n in self.space.axes["max_running"] if n <= budget or PAUSING[scheduler]]
        return np.array(list(itertools.product(limits, self.space.replicas(family.layout))), dtype=np.int64)

    def _points(
        self, family: Family, over: Curves, grid: npt.NDArray[np.int64], load: float, place: int, pausing: bool
    ) -> Points:
        demand = family.variant.demand
        assert family.plan is not None
        most = np.minimum(grid[:, 0], concurrency(family.plan, float(demand.load.contexts.mean())))
        return operate(over, demand, demand.rate_per_s * load / grid[:, 1], most.astype(float), place, pausing)


def _columns(
    family: Family, points: Points, grid: npt.NDArray[np.int64], budget: int, scheduler: str, cap_w: float, load: float
) -> Screened:
    count, replicas = len(grid), grid[:, 1]
    demand = family.variant.demand
    wanted = demand.rate_per_s * load
    served = np.minimum(wanted, points.most_per_s * replicas)
    assert family.rates is not None
    devices = replicas * family.devices
    token_rate = served * demand.load.output_tok
    mean = np.stack([points.ttft_s, points.tpot_s, points.e2e_s], axis=-1)
    high = np.stack([points.high_ttft_s, points.high_tpot_s, points.high_e2e_s], axis=-1)
    return Screened(
        family=np.full(count, family.number),
        replicas=replicas,
        max_running=grid[:, 0],
        token_budget=np.full(count, budget),
        scheduler=np.full(count, scheduler, dtype="<U12"),
        cap_w=np.full(count, cap_w),
        devices=devices,
        mean=mean,
        high=high,
        running=points.running,
        most_per_s=points.most_per_s * replicas,
        wanted_per_s=np.full(count, wanted),
        saturated=points.saturated,
        objectives=family.rates.objectives(points.power_w * replicas, devices, token_rate, points.e2e_s),
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
