"""An instance: one replica of a layout on a site's hardware, whether it serves whole requests or one of their phases.

What it costs and holds does not depend on the role, so a plan assembles and prices it once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from sparsesim.cost.memory import MemoryPlan, plan_memory
from sparsesim.errors import InputError
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import Curves, Priced, curves, priced
from sparsesim.study.planning.money import Rates, rates_of
from sparsesim.study.planning.sites import POOLS, Role, Site
from sparsesim.study.planning.space import Layout, Space, Variant
from sparsesim.system import PoolSystem, single_pool


@dataclass(frozen=True, eq=False)
class Instance:
    """One replica. `reason` says why there can be none; `missing_bytes` a device are lacking where it does not fit.

    `budgets` and `most` are the token budgets and the largest batch that are ever asked of it.
    """

    variant: Variant
    site: Site
    layout: Layout
    budgets: tuple[int, ...]
    most: int
    system: PoolSystem | None = None
    plan: MemoryPlan | None = None
    rates: Rates | None = None
    reason: str = ""
    missing_bytes: float = 0.0
    _curves: dict[float, Curves] = field(default_factory=dict, init=False, repr=False)

    @property
    def fits(self) -> bool:
        """Whether it can serve anything."""
        return self.system is not None and self.missing_bytes == 0

    @property
    def made(self) -> PoolSystem:
        """Its system, of one that fits."""
        assert self.system is not None
        return self.system

    @property
    def name(self) -> str:
        """Its layout, after its hardware where the variant has several."""
        several = len({site.hardware for site in self.variant.sites["serve"]}) > 1
        return f"{self.site.hardware} {self.layout}" if several else str(self.layout)

    @cached_property
    def parts(self) -> Priced:
        """Its steps' parts, priced for all batches and budgets."""
        return priced(self.made.steps, self.variant.demand.load, self.budgets, self.most)

    def curves(self, cap_w: float) -> Curves:
        """Its steps under a power cap."""
        if cap_w not in self._curves:
            own = self.made.steps.costs.power
            power = replace(own, cap_w=own.cap_w * min(cap_w / self.own_w, 1.0))
            self._curves[cap_w] = curves(self.made.steps, self.parts, power)
        return self._curves[cap_w]

    @property
    def own_w(self) -> float:
        """The device's own power cap."""
        return self.made.gpu.power.cap.value

    @property
    def held(self) -> float:
        """Sequences of the mean context that its cache and states hold."""
        assert self.plan is not None
        return concurrency(self.plan, float(self.variant.demand.load.contexts.mean()))


def instances(space: Space, variant: Variant) -> Iterator[tuple[Instance, tuple[Role, ...]]]:
    """Every instance of a variant with the roles it may have, those of one layout in all its roles at once."""
    roles: dict[tuple[Layout, Site], list[Role]] = {}
    for role in space.roles:
        for site in variant.sites[role]:
            for layout in space.layouts(variant, site, role):
                roles.setdefault((layout, site), []).append(role)
    for (layout, site), own in roles.items():
        yield _instance(space, variant, site, layout), tuple(own)


def _instance(space: Space, variant: Variant, site: Site, layout: Layout) -> Instance:
    blank = Instance(variant, site, layout, space.budgets, space.most)
    try:
        settings = {f"deployment.{name}": value for name, value in layout._asdict().items()}
        system = single_pool(varied(site.scenario, {**settings, "deployment.replicas": 1, "power.cap": None}))
        plan = memory_of(system, space.most)
    except InputError as error:
        return replace(blank, reason="; ".join(problem.message for problem in error.problems))
    if not caps(space, system.gpu):
        idle, own = system.gpu.power.active_idle.value, system.gpu.power.cap.value
        text = f"no power cap of the axes is above {idle:g} W and up to {own:g} W, where {system.gpu.name} works"
        return replace(blank, reason=text)
    rates = rates_of(variant.scenario, system)
    return replace(blank, system=system, plan=plan, rates=rates, missing_bytes=missing_bytes(plan))


def caps(space: Space, gpu: Gpu) -> dict[int, float]:
    """Power caps of the axes that a device can have, in W, by their place there; null is its own."""
    own, idle = gpu.power.cap.value, gpu.power.active_idle.value
    asked = enumerate(own if cap is None else cap for cap in space.axes["cap"])
    return {place: cap for place, cap in asked if idle < cap <= own}


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


def smallest_pair(known: list[tuple[Instance, tuple[Role, ...]]]) -> int | None:
    """Devices of the smallest prefill and the smallest decode instance together; None where one role has none."""
    least = [
        min((one.layout.devices for one, roles in known if role in roles and one.fits), default=None) for role in POOLS
    ]
    return None if None in least else sum(n for n in least if n is not None)
