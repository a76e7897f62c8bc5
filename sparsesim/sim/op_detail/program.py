"""What the ranks do, in order: local ops, and exchanges at which a group of ranks meets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem
from sparsesim.sim.network import Flow
from sparsesim.work import Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A kernel on every rank: seconds and bytes of device memory, one number or `[ranks]`."""

    part: str
    time_s: float | Floats
    memory_bytes: float | Floats = 0.0

    def seconds(self, ranks: int) -> Floats:
        """By rank, `[ranks]`."""
        return np.broadcast_to(np.asarray(self.time_s, dtype=np.float64), (ranks,))


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A collective: one flow per group, which starts when the last rank of the group has arrived.

    `group[r]` is the flow that rank r takes part in (None: all in the first). Ops in `behind` are computed by every
    rank after it has arrived, while the flow runs; the rank goes on when both are done.
    """

    part: str
    flows: tuple[Flow, ...]
    group: Ints | None = None
    behind: tuple[Local, ...] = ()

    def members(self, ranks: int) -> Ints:
        """Group of every rank, `[ranks]`."""
        return np.zeros(ranks, dtype=np.int64) if self.group is None else self.group


Program = tuple[Local | Exchange, ...]
Cost = Callable[[Task], Local | Exchange]


def program(tasks: Sequence[Task], cost: Cost) -> Program:
    """The steps of tasks in the order of layers: a run of tasks with the same `count` is a layer repeated so often.

    Raises:
        InputError: a count that is no whole number.

    """
    return tuple(step for block, count in layered(tasks) for step in tuple(cost(task) for task in block) * count)


def layered(tasks: Sequence[Task]) -> list[tuple[list[Task], int]]:
    """Runs of tasks with equal count, and the count."""
    runs = [(count, list(block)) for count, block in groupby(tasks, key=lambda task: task.count)]
    broken = [f"{block[0].part}: {count}" for count, block in runs if count != int(count) or count < 0]
    if broken:
        raise InputError(Problem(f"layers are repeated a whole number of times, not {', '.join(broken)}"))
    return [(block, int(count)) for count, block in runs]


def shared_during_dispatch(steps: Program, dispatch: str = "dispatch", shared: str = "shared") -> Program:
    """Local ops that name `shared`, directly after an exchange that names `dispatch`, run while it is under way."""
    result: list[Local | Exchange] = []
    for step in steps:
        last = result[-1] if result else None
        if isinstance(step, Local) and shared in step.part and isinstance(last, Exchange) and dispatch in last.part:
            result[-1] = replace(last, behind=(*last.behind, step))
        else:
            result.append(step)
    return tuple(result)


def expected_s(steps: Program, ranks: int, capacity: Floats) -> float:
    """Closed form of one program alone: between exchanges every group waits for its slowest rank.

    Raises:
        InputError: an exchange names a group it has no flow for.

    """
    clock = np.zeros(ranks)
    for step in steps:
        clock = clock + step.seconds(ranks) if isinstance(step, Local) else _met(step, clock, capacity)
    return float(clock.max())


def _met(step: Exchange, clock: Floats, capacity: Floats) -> Floats:
    members = checked_members(step, len(clock))
    start = np.full(len(step.flows), -np.inf)
    np.maximum.at(start, members, clock)
    end = start + [flow.alone_s(capacity) for flow in step.flows]
    own = clock + total_s(step.behind, len(clock))
    return np.asarray(np.maximum(end[members], own))


def checked_members(step: Exchange, ranks: int) -> Ints:
    """Group of every rank, each with a flow."""
    members = step.members(ranks)
    if members.shape != (ranks,) or members.min() < 0 or members.max() >= len(step.flows):
        raise InputError(
            Problem(
                f"exchange {step.part!r} has {len(step.flows)} flows for groups {np.unique(members)} of {ranks} ranks"
            )
        )
    return members


def total_s(steps: Iterable[Local], ranks: int) -> Floats:
    """Seconds of local ops by rank."""
    return np.asarray(sum((step.seconds(ranks) for step in steps), np.zeros(ranks)))
