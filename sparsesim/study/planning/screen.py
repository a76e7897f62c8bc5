"""The screening: every candidate of the space answered in closed form, and what rules families of them out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.cost.memory import MemoryPlan, plan_memory
from sparsesim.errors import InputError
from sparsesim.scenario import Scenario, Slo
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import curves, priced
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

    `family` numbers the families; `load` multiplies the workload's. `mean` [candidates, 3] are the means of TTFT,
    TPOT and end-to-end time, `high` [candidates, 3] their predicted percentiles. `objectives` hold money and carbon
    per million output tokens, energy per output token, devices and time (`money.LABELS`).
    """

    family: npt.NDArray[np.int64]
    replicas: npt.NDArray[np.int64]
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


LOADS = (1.0, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Multiples of the load that are screened: the load itself, and others to say what would change the choice."""


def screen(space: Space, family: Family) -> Screened | None:
    """All candidates of a family that fits, under every one of `LOADS`; None for one that does not."""
    if family.system is None or family.plan is None or family.missing_bytes > 0:
        return None
    steps, demand, axes = family.system.steps, family.variant.demand, space.axes
    parts = priced(steps, demand.load, axes["token_budget"], max(axes["max_running"]))
    held = concurrency(family.plan, float(demand.load.contexts.mean()))
    own_w, found = family.system.gpu.power.cap.value, []
    for cap_w in dict.fromkeys(own_w if cap is None else cap for cap in axes["cap"]):
        if cap_w > own_w:
            continue
        power = replace(steps.costs.power, cap_w=steps.costs.power.cap_w * cap_w / own_w)
        over = curves(steps, parts, power)
        for scheduler, (place, budget) in itertools.product(axes["scheduler"], enumerate(axes["token_budget"])):
            grid = _grid(space, family, scheduler, budget)
            rate = demand.rate_per_s * grid[:, 2] / grid[:, 1]
            points = operate(over, demand, rate, np.minimum(grid[:, 0], held), place, PAUSING[scheduler])
            found.append(_columns(family, points, grid, budget, scheduler, cap_w))
    return joined(found) if found else None


def _grid(space: Space, family: Family, scheduler: str, budget: int) -> Floats:
    """Batch limit, replicas and load, [candidates, 3]; continuous batching needs a token for every sequence."""
    limits = [n for n in space.axes["max_running"] if n <= budget or PAUSING[scheduler]]
    rows = list(itertools.product(limits, space.replicas(family.layout), LOADS))
    return np.array(rows, dtype=float).reshape(-1, 3)


def _columns(family: Family, points: Points, grid: Floats, budget: int, scheduler: str, cap_w: float) -> Screened:
    count, replicas = len(grid), grid[:, 1]
    demand = family.variant.demand
    wanted = demand.rate_per_s * grid[:, 2]
    assert family.rates is not None
    devices = replicas * family.devices
    tokens = np.minimum(wanted, points.most_per_s * replicas) * demand.load.output_tok
    return Screened(
        family=np.full(count, family.number),
        replicas=replicas.astype(np.int64),
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
        objectives=family.rates.objectives(points.power_w * replicas, devices, tokens, points.e2e_s),
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
