"""Projections to cores and layers to chips, by memory, neurons and fan-in.

A core holds whole neurons: a row of d_in weights each, its own state and, in a layer's first phase, a share of the
layer's recurrent state. A layer takes the fewest cores that hold it (`spread="memory"`), or those and every other
core of its chips, given one by one to whichever projection's cores have the most multiply-adds left (`"load"`).
Layers fill a chip while they fit whole; one that is larger than a chip begins on a fresh one.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsesim.cost.neuromorphic.machine import Machine
from sparsesim.cost.neuromorphic.stages import Projection, Stage
from sparsesim.errors import DoesNotFitError, InputError, Problem

Spread = Literal["memory", "load"]


@dataclass(frozen=True, slots=True)
class ProjectionMap:
    """A projection on `cores` cores."""

    projection: Projection
    phase: int
    cores: int

    @property
    def outputs(self) -> npt.NDArray[np.int64]:
        """Neurons of each core, [cores]."""
        low, more = divmod(self.projection.d_out, self.cores)
        return np.where(np.arange(self.cores) < more, low + 1, low)


@dataclass(frozen=True, slots=True)
class StageMap:
    """A layer on cores `first_core`, ... of chip `first_chip` and those after it."""

    stage: Stage
    projections: tuple[ProjectionMap, ...]
    first_chip: int
    first_core: int

    @property
    def cores(self) -> int:
        """In use."""
        return sum(p.cores for p in self.projections)

    def chips(self, cores_per_chip: int) -> npt.NDArray[np.int64]:
        """Chip of each core, [cores]."""
        return self.first_chip + (self.first_core + np.arange(self.cores)) // cores_per_chip


@dataclass(frozen=True, slots=True)
class Mapping:
    """A whole model on a system of chips, and why it takes as many as it does."""

    stages: tuple[StageMap, ...]
    chips: int
    why: str

    @property
    def cores(self) -> int:
        """In use on all chips."""
        return sum(stage.cores for stage in self.stages)


def map_stages(stages: tuple[Stage, ...], m: Machine, spread: Spread = "memory") -> Mapping:
    """Lay a model over a machine's chips.

    Raises:
        InputError: a projection that no core can hold a neuron of; all such at once.
        DoesNotFitError: more chips are needed than the machine has.

    """
    needed = [_fewest(stage, m) for stage in stages]
    found, chip, core = [], 0, 0
    for stage, maps in zip(stages, needed, strict=True):
        cores = sum(p.cores for p in maps)
        if core and core + cores > m.cores:
            chip, core = chip + 1, 0
        if spread == "load":
            maps = _spread(maps, math.ceil(cores / m.cores) * m.cores - (core if cores + core <= m.cores else 0))
            cores = sum(p.cores for p in maps)
        found.append(StageMap(stage, maps, chip, core))
        chip, core = chip + (core + cores) // m.cores, (core + cores) % m.cores
    chips = chip + (core > 0)
    why = _why(found, chips, m)
    if chips > m.chips:
        raise DoesNotFitError(f"{why}; {m.name} has {m.chips} here: ask for {chips} chips, or a smaller model")
    return Mapping(tuple(found), chips, why)


def weight_bytes(projection: Projection, m: Machine) -> float:
    """Bytes of one weight: 8-bit synapses, chained for wider weights."""
    return math.ceil(projection.weight_bits / (8 * m.synapse_bytes)) * m.synapse_bytes


def _fewest(stage: Stage, m: Machine) -> tuple[ProjectionMap, ...]:
    problems: list[Problem] = []
    maps = []
    for phase, projections in enumerate(stage.phases):
        shared = stage.state / sum(p.d_out for p in projections) if phase == 0 else 0.0
        for projection in projections:
            neuron = projection.d_in * weight_bytes(projection, m) + m.state_bytes * (1.0 + shared)
            fault = _fault(stage, projection, neuron, m)
            if fault:
                problems.append(fault)
                continue
            most = min(math.floor(m.core_bytes / neuron), m.neurons)
            maps.append(ProjectionMap(projection, phase, math.ceil(projection.d_out / most)))
    if problems:
        raise InputError(problems)
    return tuple(maps)


def _fault(stage: Stage, projection: Projection, neuron_bytes: float, m: Machine) -> Problem | None:
    path = f"{stage.name}.{projection.name}"
    synapses = weight_bytes(projection, m) / m.synapse_bytes
    if synapses > m.chain:
        widest = m.chain * 8 * m.synapse_bytes
        return Problem(
            f"weights of {projection.weight_bits} bits; {m.name} has {widest:g} at most", path, hint="quantise"
        )
    if neuron_bytes > m.core_bytes:
        most = math.floor(m.core_bytes / weight_bytes(projection, m))
        return Problem(
            f"fits no core of {m.name}: one neuron takes {neuron_bytes:,.0f} B of {m.core_bytes:,.0f}",
            path,
            hint=f"a projection may have {most:,} inputs at most, this one has {projection.d_in:,}",
        )
    if m.fan_in is not None and projection.d_in > m.fan_in:
        return Problem(
            f"fits no core of {m.name}: {projection.d_in:,} inputs, a core takes {m.fan_in:,}",
            path,
            hint="use a narrower model, or a chip with a larger fan-in such as loihi2",
        )
    return None


def _spread(maps: tuple[ProjectionMap, ...], cores: int) -> tuple[ProjectionMap, ...]:
    """Give every free core to the projection whose cores are busiest, while it has a neuron to give."""
    count = [p.cores for p in maps]
    load = [(-p.projection.active_macs / p.cores, i) for i, p in enumerate(maps)]
    heapq.heapify(load)
    for _ in range(cores - sum(count)):
        _, i = heapq.heappop(load)
        count[i] = min(count[i] + 1, maps[i].projection.d_out)
        heapq.heappush(load, (-maps[i].projection.active_macs / count[i], i))
    return tuple(ProjectionMap(p.projection, p.phase, n) for p, n in zip(maps, count, strict=True))


def _why(stages: list[StageMap], chips: int, m: Machine) -> str:
    largest = max(stages, key=lambda s: s.cores)
    stored = sum(p.macs * weight_bytes(p, m) for p in largest.stage.projections)
    each = math.ceil(largest.cores / m.cores)
    layers = f"{len(stages)} layers" if len(stages) > 1 else "1 layer"
    if each > 1:
        share = f"{each} chips a layer"
    else:
        together = max(1, m.cores // largest.cores)
        share = f"{together} layers a chip" if together > 1 else "one layer a chip"
    return (
        f"{layers} need {chips} chip{'s' if chips > 1 else ''}: {share}, because {largest.stage.name} stores "
        f"{stored / 1e6:.2f} MB of synapses in {largest.cores} cores of {m.core_bytes / 1024:.0f} KiB "
        f"and a chip has {m.cores}"
    )
