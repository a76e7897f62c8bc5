"""A model as a pipeline of stages (one layer each) of projections that wait for one another.

The projections, their sizes and the recurrent state come from the model's own tasks for one token; nothing is known
here of particular models. A stage's phases are its projections in order, those that read the same input together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsesim.cost.neuromorphic.densities import Density, DensitySet, Phase
from sparsesim.errors import InputError, Problem
from sparsesim.model.arch import Model
from sparsesim.model.blocks import Block
from sparsesim.model.setting import Setting
from sparsesim.work import Gemm, Pointwise, Task, dtype_bytes

SHARED_INPUT = (frozenset("ifg"), frozenset("qkv"), frozenset(("gate", "up")))
"""Projections of one block that read the same input, so that none waits for another (arXiv 2406.02528 for i, f, g)."""
_DENSITY_NAME = {"gate_up": "up", "gate": "up", "lm_head": "head"}
"""Fused or renamed projections go by the name that density sets use."""


@dataclass(frozen=True, slots=True)
class Projection:
    """`d_out` neurons that each read `d_in` inputs of which a share `density` is not zero, in the mean.

    `law`: how that share spreads over tokens; none: the inputs of a token are independent draws of the mean.
    """

    name: str
    d_in: int
    d_out: int
    density: float = 1.0
    weight_bits: int = 8
    law: Density | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of a token without zeros."""
        return self.d_in * self.d_out

    @property
    def active_macs(self) -> float:
        """Multiply-adds of a token with its zeros skipped."""
        return self.density * self.macs


@dataclass(frozen=True, slots=True)
class Stage:
    """One layer: phases of projections in the order in which a token meets them.

    `d_model` values enter, of which a share `communication` is not zero; `state` elements stay in the cores.
    """

    name: str
    phases: tuple[tuple[Projection, ...], ...]
    d_model: int
    communication: float
    state: int = 0

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All of them, in order."""
        return tuple(p for phase in self.phases for p in phase)

    @property
    def macs(self) -> int:
        """Multiply-adds of a token without zeros."""
        return sum(p.macs for p in self.projections)

    @property
    def active_macs(self) -> float:
        """Multiply-adds of a token with its zeros skipped."""
        return sum(p.active_macs for p in self.projections)

    @property
    def state_phase(self) -> int:
        """The phase before which the state is computed: the second, or the only one (S4D, whose input is not mixed)."""
        return min(1, len(self.phases) - 1)

    @property
    def ratio(self) -> float:
        """r, executed over dense multiply-adds."""
        return self.active_macs / self.macs


def stages_of(model: Model, densities: DensitySet, phase: Phase, *, head: bool = False) -> tuple[Stage, ...]:
    """The model's layers in order, the LM head as a stage of its own if asked for.

    Raises:
        InputError: a block that no event-driven core can hold, or a projection without a density; all at once.

    """
    communication = densities.communication.of(phase).value
    found: list[Stage] = []
    problems: dict[str, Problem] = {}
    layer = 0
    for group in model.layers:
        for _ in range(group.count):
            try:
                found.append(_layer(model, group.blocks, densities, layer, communication))
            except InputError as error:
                problems = {p.message: p for p in error.problems} | problems
            layer += 1
    if problems:
        raise InputError(list(problems.values()))
    return (*found, _head(model, densities, layer, communication)) if head else tuple(found)


def total_macs(stages: tuple[Stage, ...]) -> tuple[float, float]:
    """Executed and dense multiply-adds of a token."""
    return sum(s.active_macs for s in stages), float(sum(s.macs for s in stages))


def _layer(model: Model, blocks: tuple[Block, ...], densities: DensitySet, layer: int, communication: float) -> Stage:
    phases: list[tuple[Projection, ...]] = []
    problems: list[Problem] = []
    for block in blocks:
        _no_cache(block, layer)
        shapes = _projections(block.token_tasks(1.0, model.d_model, Setting(precision=model.precision)), layer)
        known = []
        for shape in shapes:
            try:
                known.append(_with_density(shape, densities.of(layer, shape.name)))
            except InputError as error:
                problems += error.problems
        phases += _phases(known)
    if problems:
        raise InputError(problems)
    state = sum(block.state_elements().recurrent + block.state_elements().conv for block in blocks)
    return Stage(f"layer {layer}", tuple(phases), model.d_model, communication, state)


def _head(model: Model, densities: DensitySet, layer: int, communication: float) -> Stage:
    tasks = model.head_tasks(1.0, Setting(precision=model.precision))
    shapes = [_with_density(p, densities.of(layer, p.name)) for p in _projections(tasks, layer)]
    return Stage("head", tuple(_phases(shapes)), model.d_model, communication)


def _with_density(shape: Projection, density: Density) -> Projection:
    return replace(shape, density=density.mean, law=density if len(density.densities) > 1 else None)


def _no_cache(block: Block, layer: int) -> None:
    if block.kv_elements_per_token():
        raise InputError(
            Problem(
                f"block {block.kind!r} keeps a growing key-value cache",
                path=f"layers[{layer}]",
                hint="event-driven cores hold states of fixed size: use a recurrent model such as mmfreelm-370m",
            )
        )


def _projections(tasks: list[Task], layer: int) -> list[Projection]:
    found = []
    for task in tasks:
        if isinstance(task.op, Pointwise):
            continue
        if not isinstance(task.op, Gemm):
            raise InputError(
                Problem(
                    f"{task.part!r} ({task.op.op}) has no event-driven form",
                    path=f"layers[{layer}]",
                    hint="layers of plain projections and recurrent states have one",
                )
            )
        name = task.part.rpartition(".")[2]
        inputs, outputs = int(float(task.op.k)), int(float(task.op.n))
        bits = math.ceil(8 * dtype_bytes(task.op.weights or task.op.dtype))
        found.append(Projection(_DENSITY_NAME.get(name, name), inputs, outputs, weight_bits=bits))
    return found


def _phases(projections: list[Projection]) -> list[tuple[Projection, ...]]:
    phases: list[list[Projection]] = []
    for projection in projections:
        together = {p.name for p in phases[-1]} if phases else set()
        if any(projection.name in shared and together & shared for shared in SHARED_INPUT):
            phases[-1].append(projection)
        else:
            phases.append([projection])
    return [tuple(phase) for phase in phases]
