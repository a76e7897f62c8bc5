"""Time and energy of a token on a mapped model, without queues.

A step ends when the slowest core has sent and taken in everything, the busiest chip link has passed its messages on
(they are not hidden: a fifth of the dense time is published to be communication), and the barrier has closed it:

    step = max over cores(generation, processing, mesh) + crossing t_link + barrier

Pipelined (prefill): every layer works on its own token, all its phases at once; a token comes out every
max over layers(step of the summed phases). Fall-through (generate): one token, so phases and layers add up, and the
part inside the cores takes `fall_through` times as long (what lies between two projections: norms, gates, transfers).
"""

from __future__ import annotations

from collections.abc import Mapping as Mapped
from dataclasses import dataclass

import numpy as np

from sparsesim.cost.neuromorphic.densities import Phase
from sparsesim.cost.neuromorphic.events import Step, all_neurons, steps
from sparsesim.cost.neuromorphic.machine import Machine
from sparsesim.cost.neuromorphic.mapping import Mapping, StageMap

COMPONENTS = ("synop", "neuron", "message", "hop", "chip_link", "static")


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What a token asks of one layer: seconds by part, and the load of its cores."""

    name: str
    first_chip: int
    cores: int
    core_s: float
    mesh_s: float
    link_s: float
    barrier_s: float
    mean_core_s: float
    bound: str

    @property
    def time_s(self) -> float:
        """Of the layer's step (pipelined) or steps (fall-through, where `mesh_s` is contained in `core_s`)."""
        return max(self.core_s, self.mesh_s) + self.link_s + self.barrier_s


@dataclass(frozen=True, slots=True)
class TokenCost:
    """One token: seconds between tokens, seconds through all layers, joules by component, and every layer's load."""

    interval_s: float
    latency_s: float
    energy_j: Mapped[str, float]
    stages: tuple[StageLoad, ...]

    @property
    def dynamic_j(self) -> float:
        """Everything but static power."""
        return sum(self.energy_j.values()) - self.energy_j["static"]


def token_cost(mapping: Mapping, m: Machine, phase: Phase) -> TokenCost:
    """A token's cost in steady state."""
    paths = [steps(stage, m, _next(mapping, i)) for i, stage in enumerate(mapping.stages)]
    count = sum(len(path) for path in paths)
    if phase == "prefill":
        loads = tuple(_pipelined(s, path, m) for s, path in zip(mapping.stages, paths, strict=True))
        interval = max(load.time_s for load in loads)
        latency, looks = count * interval, 1
    else:
        loads = tuple(_fall_through(s, path, m) for s, path in zip(mapping.stages, paths, strict=True))
        interval = latency = sum(load.time_s for load in loads)
        looks = count
    energy = _energy(mapping, [step for path in paths for step in path], m, looks)
    energy["static"] = m.static_w * mapping.chips * interval
    return TokenCost(interval, latency, energy, loads)


def _next(mapping: Mapping, index: int) -> int | None:
    return mapping.stages[index + 1].first_chip if index + 1 < len(mapping.stages) else None


def tiles_used(stage: StageMap, m: Machine) -> int:
    """Of the fullest chip."""
    busiest = int(np.bincount(stage.chips(m.cores) - stage.first_chip).max())
    return -(-busiest // m.cores_per_tile)


def _pipelined(stage: StageMap, path: tuple[Step, ...], m: Machine) -> StageLoad:
    generation = sum((s.generation_s for s in path), np.zeros(stage.cores))
    processing = sum((s.processing_s for s in path), np.zeros(stage.cores))
    busy = np.maximum(generation, processing)
    mesh_s = float(sum((s.links_s for s in path), np.zeros(1)).max())
    return StageLoad(
        name=stage.stage.name,
        first_chip=stage.first_chip,
        cores=stage.cores,
        core_s=float(busy.max()),
        mesh_s=mesh_s,
        link_s=sum(s.crossing for s in path) * m.link_s,
        barrier_s=m.barrier_s(tiles_used(stage, m)),
        mean_core_s=float(busy.mean()),
        bound=_bound(float(generation.max()), float(processing.max()), mesh_s),
    )


def _fall_through(stage: StageMap, path: tuple[Step, ...], m: Machine) -> StageLoad:
    generation = sum(float(s.generation_s.max()) for s in path)
    processing = sum(float(s.processing_s.max()) for s in path)
    mesh_s = sum(float(s.links_s.max()) for s in path)
    core = sum(max(float(s.generation_s.max()), float(s.processing_s.max()), float(s.links_s.max())) for s in path)
    busy = sum((np.maximum(s.generation_s, s.processing_s) for s in path), np.zeros(stage.cores))
    return StageLoad(
        name=stage.stage.name,
        first_chip=stage.first_chip,
        cores=stage.cores,
        core_s=core * m.fall_through,
        mesh_s=mesh_s,
        link_s=sum(s.crossing for s in path) * m.link_s,
        barrier_s=len(path) * m.barrier_s(tiles_used(stage, m)),
        mean_core_s=float(busy.mean()),
        bound=_bound(generation, processing, mesh_s),
    )


def _bound(generation: float, processing: float, mesh: float) -> str:
    terms = {"generation": generation, "processing": processing, "mesh": mesh}
    return max(terms, key=lambda name: terms[name])


def _energy(mapping: Mapping, path: list[Step], m: Machine, looks: int) -> dict[str, float]:
    """Joules of a token; every neuron is looked at `looks` times."""
    total = {name: sum(step.events[name] for step in path) for name in m.energy_j}
    total["neuron_access"] = looks * sum(all_neurons(stage) for stage in mapping.stages)
    joules = {name: count * m.energy_j[name] for name, count in total.items()}
    return {
        "synop": joules["synop"],
        "neuron": joules["neuron_access"] + joules["neuron_update"] + joules["spike"],
        "message": joules["message"] + joules["receive"],
        "hop": joules["hop_east_west"] + joules["hop_north_south"],
        "chip_link": sum(step.crossings for step in path) * m.link_j,
    }
