"""Tasks summed into a step: seconds, the part that stretches with clocks, joules by component, and kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.kernel import Cost, CostModel
from sparsesim.cost.power import PowerModel, clock_under_cap, one_clock_under_cap
from sparsesim.hardware.engine import Engine
from sparsesim.work import Task

Floats = npt.NDArray[np.float64]
COMPONENTS = ("compute", "memory", "link", "static")
TIME, CORE, COMPUTE, MEMORY, LINK, KERNELS = range(6)
WIDTH = 6


@dataclass(frozen=True, slots=True)
class Priced:
    """A task with its cost; totals are the cost times the task's count."""

    task: Task
    cost: Cost


def price(tasks: Iterable[Task], model: CostModel) -> list[Priced]:
    """Every task's cost on one device."""
    return [Priced(task, model.cost(task.op)) for task in tasks]


def totals(priced: Iterable[Priced], engine: Engine, shape: tuple[int, ...] = ()) -> Floats:
    """[..., 6]: time with the engine's gaps, clock-bound time, compute, memory and link joules, kernels launched."""
    total = np.zeros((*shape, WIDTH))
    for item in priced:
        n, c = item.task.count, item.cost
        time = n * (c.time_s * engine.quality.value + engine.gap.value)
        columns: tuple[Floats | float, ...] = (
            time,
            n * c.core_s * engine.quality.value,
            n * c.compute_j,
            n * c.memory_j,
            n * c.link_j,
            n,
        )
        for i, column in enumerate(columns):
            total[..., i] += column
    return total


def finished(total: Floats, host_s: Floats, graph: npt.NDArray[np.bool_], engine: Engine, power: PowerModel) -> Floats:
    """Values of a step on one device: time and joules by component, [..., 5], host time and power cap included.

    Outside of graphs the device waits for the host where launching takes longer than running.
    """
    launched = total[..., KERNELS] * engine.launch.value
    time = np.where(graph, total[..., TIME], np.maximum(total[..., TIME], launched)) + host_s
    rest = total[..., MEMORY] + total[..., LINK]
    clock = clock_under_cap(time, total[..., CORE], total[..., COMPUTE], rest, power)
    stretched = time + total[..., CORE] * (1.0 / clock - 1.0)
    compute = total[..., COMPUTE] * clock**power.exponent
    return np.stack([stretched, compute, total[..., MEMORY], total[..., LINK], power.static_w * stretched], axis=-1)


def finished_one(total: Sequence[float], host_s: float, graph: bool, engine: Engine, power: PowerModel) -> list[float]:
    """`finished` for a single step in plain floats, which is some thirty times faster for one."""
    time, core, compute, memory, link, kernels = total
    if not graph:
        time = max(time, kernels * engine.launch.value)
    time += host_s
    if power.static_w + (compute + memory + link) / time > power.cap_w:
        clock = one_clock_under_cap(time, core, compute, memory + link, power)
        time += core * (1.0 / clock - 1.0)
        compute *= clock**power.exponent
    return [time, compute, memory, link, power.static_w * time]
