"""Tasks summed into a step: seconds, the part that stretches with clocks, joules by component, and kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.kernel import Cost, CostModel
from sparsesim.cost.power import PowerModel, clock_under_cap, one_clock_under_cap
from sparsesim.hardware.engine import Engine
from sparsesim.work import MoeFfn, Op, Task
from sparsesim.work.collective import COLLECTIVES

Floats = npt.NDArray[np.float64]
COMPONENTS = ("compute", "memory", "link", "static")
TIME, EXPERTS, COLLECTIVE, CORE, COMPUTE, MEMORY, LINK, KERNELS = range(8)
WIDTH = 8


@dataclass(frozen=True, slots=True)
class Priced:
    """A task with its cost; totals are the cost times the task's count."""

    task: Task
    cost: Cost


def price(tasks: Iterable[Task], model: CostModel) -> list[Priced]:
    """Every task's cost on one device."""
    return [Priced(task, model.cost(task.op)) for task in tasks]


def totals(priced: Iterable[Priced], shape: tuple[int, ...] = ()) -> Floats:
    """[..., 8]: kernel, expert and collective time, clock-bound time, compute, memory and link joules, kernels.

    Times are those at full clocks. Nothing of an engine is in them, nor the power cap: `finished` adds both.
    """
    total = np.zeros((*shape, WIDTH))
    for item in priced:
        n, c = item.task.count, item.cost
        total[..., _column(item.task.op)] += n * c.full_clock_s
        total[..., CORE] += n * (c.core_s - c.throttled_s)
        total[..., COMPUTE] += n * c.compute_j
        total[..., MEMORY] += n * c.memory_j
        total[..., LINK] += n * c.link_j
        total[..., KERNELS] += n
    return total


def _column(op: Op) -> int:
    """Which of an engine's factors a kernel's time takes."""
    return COLLECTIVE if isinstance(op, COLLECTIVES) else EXPERTS if isinstance(op, MoeFfn) else TIME


def engine_seconds(item: Priced, engine: Engine) -> float:
    """Seconds of all launches of a task under an engine at full clocks, without the gaps between them."""
    factors = {COLLECTIVE: engine.collectives, EXPERTS: engine.experts, TIME: engine.quality}
    return item.task.count * float(np.sum(item.cost.full_clock_s)) * factors[_column(item.task.op)].value


@dataclass(frozen=True, slots=True)
class Overhead:
    """What an engine adds to a step: the host's seconds, the device's for sampling, and whether a graph is replayed.

    Sampling streams logits: it draws the memory's power at its full rate.
    """

    host_s: float
    sampling_s: float
    sampling_w: float
    graph: bool


def device_seconds(total: Floats, engine: Engine, graph: bool) -> tuple[Floats, Floats]:
    """Seconds of a device's kernels under an engine, gaps included, and the part of them that stretches with clocks.

    Outside of graphs the device waits for the host where launching takes longer than running.
    """
    gaps = total[..., KERNELS] * engine.gap.value
    kernels = total[..., TIME] * engine.quality.value + total[..., EXPERTS] * engine.experts.value
    running = kernels + total[..., COLLECTIVE] * engine.collectives.value + gaps
    launched = total[..., KERNELS] * engine.launch.value
    own = total[..., TIME] + total[..., EXPERTS]
    core = total[..., CORE] * kernels / np.where(own > 0, own, 1.0)
    return (running if graph else np.maximum(running, launched)), core


def finished(total: Floats, overhead: Overhead, engine: Engine, power: PowerModel) -> Floats:
    """Values of a step on one device: time and joules by component, [..., 5], host time and power cap included."""
    time, core = device_seconds(total, engine, overhead.graph)
    time = time + overhead.host_s + overhead.sampling_s
    memory = total[..., MEMORY] + overhead.sampling_s * overhead.sampling_w
    rest = memory + total[..., LINK]
    clock = clock_under_cap(time, core, total[..., COMPUTE], rest, power)
    stretched = time + core * (1.0 / clock - 1.0)
    compute = total[..., COMPUTE] * clock**power.exponent
    return np.stack([stretched, compute, memory, total[..., LINK], power.static_w * stretched], axis=-1)


def finished_one(total: Sequence[float], overhead: Overhead, engine: Engine, power: PowerModel) -> list[float]:
    """`finished` for a single step in plain floats, which is some thirty times faster for one."""
    kernel_s, expert_s, collective_s, core, compute, memory, link, launches = total
    kernels = kernel_s * engine.quality.value + expert_s * engine.experts.value
    time = kernels + collective_s * engine.collectives.value + launches * engine.gap.value
    if not overhead.graph:
        time = max(time, launches * engine.launch.value)
    time += overhead.host_s + overhead.sampling_s
    memory += overhead.sampling_s * overhead.sampling_w
    core *= kernels / (kernel_s + expert_s)
    if power.static_w + (compute + memory + link) / time > power.cap_w:
        clock = one_clock_under_cap(time, core, compute, memory + link, power)
        time += core * (1.0 / clock - 1.0)
        compute *= clock**power.exponent
    return [time, compute, memory, link, power.static_w * time]
