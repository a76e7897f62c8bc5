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
from sparsesim.work.collective import COLLECTIVES

Floats = npt.NDArray[np.float64]
COMPONENTS = ("compute", "memory", "link", "static")
TIME, COLLECTIVE, CORE, COMPUTE, MEMORY, LINK, KERNELS = range(7)
WIDTH = 7


@dataclass(frozen=True, slots=True)
class Priced:
    """A task with its cost; totals are the cost times the task's count."""

    task: Task
    cost: Cost


def price(tasks: Iterable[Task], model: CostModel) -> list[Priced]:
    """Every task's cost on one device."""
    return [Priced(task, model.cost(task.op)) for task in tasks]


def totals(priced: Iterable[Priced], shape: tuple[int, ...] = ()) -> Floats:
    """[..., 7]: kernel time, collective time, clock-bound time, compute, memory and link joules, kernels launched.

    Nothing of an engine is in them: `finished` adds it.
    """
    total = np.zeros((*shape, WIDTH))
    for item in priced:
        n, c = item.task.count, item.cost
        total[..., COLLECTIVE if isinstance(item.task.op, COLLECTIVES) else TIME] += n * c.time_s
        total[..., CORE] += n * c.core_s
        total[..., COMPUTE] += n * c.compute_j
        total[..., MEMORY] += n * c.memory_j
        total[..., LINK] += n * c.link_j
        total[..., KERNELS] += n
    return total


def engine_seconds(item: Priced, engine: Engine) -> float:
    """Seconds of all launches of a task under an engine, without the gaps between them."""
    factor = engine.collectives if isinstance(item.task.op, COLLECTIVES) else engine.quality
    return item.task.count * float(np.sum(item.cost.time_s)) * factor.value


@dataclass(frozen=True, slots=True)
class Overhead:
    """What an engine adds to a step: the host's seconds, the device's for sampling, and whether a graph is replayed.

    Sampling streams logits: it draws the memory's power at its full rate.
    """

    host_s: float
    sampling_s: float
    sampling_w: float
    graph: bool


def finished(total: Floats, overhead: Overhead, engine: Engine, power: PowerModel) -> Floats:
    """Values of a step on one device: time and joules by component, [..., 5], host time and power cap included.

    Outside of graphs the device waits for the host where launching takes longer than running.
    """
    quality, gaps = engine.quality.value, total[..., KERNELS] * engine.gap.value
    running = total[..., TIME] * quality + total[..., COLLECTIVE] * engine.collectives.value + gaps
    launched = total[..., KERNELS] * engine.launch.value
    time = running if overhead.graph else np.maximum(running, launched)
    time = time + overhead.host_s + overhead.sampling_s
    memory = total[..., MEMORY] + overhead.sampling_s * overhead.sampling_w
    core, rest = total[..., CORE] * quality, memory + total[..., LINK]
    clock = clock_under_cap(time, core, total[..., COMPUTE], rest, power)
    stretched = time + core * (1.0 / clock - 1.0)
    compute = total[..., COMPUTE] * clock**power.exponent
    return np.stack([stretched, compute, memory, total[..., LINK], power.static_w * stretched], axis=-1)


def finished_one(total: Sequence[float], overhead: Overhead, engine: Engine, power: PowerModel) -> list[float]:
    """`finished` for a single step in plain floats, which is some thirty times faster for one."""
    kernel_s, collective_s, core, compute, memory, link, kernels = total
    time = kernel_s * engine.quality.value + collective_s * engine.collectives.value + kernels * engine.gap.value
    if not overhead.graph:
        time = max(time, kernels * engine.launch.value)
    time += overhead.host_s + overhead.sampling_s
    memory += overhead.sampling_s * overhead.sampling_w
    core *= engine.quality.value
    if power.static_w + (compute + memory + link) / time > power.cap_w:
        clock = one_clock_under_cap(time, core, compute, memory + link, power)
        time += core * (1.0 / clock - 1.0)
        compute *= clock**power.exponent
    return [time, compute, memory, link, power.static_w * time]
