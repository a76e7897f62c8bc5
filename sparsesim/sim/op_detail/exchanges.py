"""Communication ops as exchanges: who meets, what flows over which links, and how long it takes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsesim.cost.network.moe import mode_of, traffic_matrix
from sparsesim.cost.network.routing import Visits
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology import Routes
from sparsesim.sim.network import Flow
from sparsesim.sim.op_detail.program import Exchange
from sparsesim.work import AllReduce, AllToAll, Collective, MoeCombine, MoeDispatch, Op, Send, Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Exchanges:
    """A cost function for communication tasks over a routed network.

    `alone_s(op)` is the closed form: no exchange is faster, and none slower unless links are contended. `groups` holds
    the devices of every group of ranks that talk, by their size `[groups, size]`: tensor-parallel groups for
    collectives, expert-parallel ones for dispatch and combine; `ranks` run on the network's first devices. `tokens` by
    rank of a dispatch replaces the op's. `in_switch`: the nodes' switches add up.
    """

    routes: Routes
    gpus_per_node: int
    alone_s: Callable[[Op], float]
    groups: dict[int, Ints]
    ranks: int
    visits: Visits | None = None
    tokens: Floats | None = None
    in_switch: bool = False
    _cache: dict[str, Exchange] = field(default_factory=dict, repr=False)

    def __call__(self, task: Task) -> Exchange:
        """The exchange of a task (computed once).

        Raises:
            InputError: the op communicates nothing, or there are no groups of its size.

        """
        key = f"{task.part} {task.op!r}"
        if key not in self._cache:
            self._cache[key] = self._exchange(task)
        return self._cache[key]

    def _exchange(self, task: Task) -> Exchange:
        op = task.op
        if isinstance(op, MoeDispatch | MoeCombine):
            size, pattern = int(op.ranks), self._routed
        elif isinstance(op, Collective | Send):
            size, pattern = int(op.gpus), self._even
        else:
            raise InputError(Problem(f"{op.op} of {task.part!r} does not communicate"))
        if size not in self.groups:
            have = ", ".join(map(str, self.groups)) or "none"
            raise InputError(
                Problem(f"{op.op} of {task.part!r} over {size} ranks; groups of {have} ranks are laid out")
            )
        alone = self.alone_s(op)
        flows = tuple(Flow(self._links(pattern(op, group), group), alone) for group in self.groups[size])
        return Exchange(task.part, flows, self._members(self.groups[size]))

    @cached_property
    def devices(self) -> int:
        """Devices of the network."""
        return self.routes.network.devices

    def _members(self, groups: Ints) -> Ints:
        members = np.full(self.ranks, -1, dtype=np.int64)
        for index, group in enumerate(groups):
            members[group] = index
        return members

    def _links(self, matrix: Floats, group: Ints) -> Floats:
        traffic = np.zeros((self.devices, self.devices))
        traffic[np.ix_(group, group)] = matrix
        return self.routes.loads(traffic)

    def _routed(self, op: Op, group: Ints) -> Floats:
        """Bytes from rank to rank of a dispatch, or back."""
        assert isinstance(op, MoeDispatch | MoeCombine)
        if self.visits is None:
            raise InputError(Problem(f"{op.op} needs the visits of a routing over a placement"))
        tokens = np.asarray(op.tokens if self.tokens is None else self.tokens[group], dtype=np.float64)
        mode = mode_of(float(np.max(tokens)), len(self.visits.node), op.mode)
        stages = traffic_matrix(tokens, self.visits, float(np.asarray(op.token_bytes())), self.gpus_per_node, mode)
        total = np.asarray(sum(stages, np.zeros_like(stages[0])))
        return total if isinstance(op, MoeDispatch) else total.T

    def _passes(self, ranks: int, nodes: int) -> float:
        """How often an all-reduce sends its buffer: a switch that adds up gets it once and sends every shard back."""
        return min(2.0, (ranks + 1.0) / (ranks - 1.0)) if self.in_switch and nodes == 1 else 2.0

    def _even(self, op: Op, group: Ints) -> Floats:
        """Bytes from rank to rank of a collective: inside nodes and along rails, or to everybody."""
        n = len(group)
        node, rail = np.divmod(group, self.gpus_per_node)
        if isinstance(op, Send):
            matrix = np.zeros((n, n))
            matrix[0, -1] = float(np.asarray(op.bytes))
            return matrix
        assert isinstance(op, Collective)
        size = float(np.asarray(op.bytes))
        if isinstance(op, AllToAll):
            matrix = np.full((n, n), size * float(np.asarray(op.skew)) / n)
        else:
            nodes = len(np.unique(node))
            passes = self._passes(n, nodes) if isinstance(op, AllReduce) else 1.0
            inside = np.equal.outer(node, node) * (passes * size * nodes / n)
            along = np.equal.outer(rail, rail) * ~np.equal.outer(node, node) * (passes * size / n)
            matrix = inside + along
        np.fill_diagonal(matrix, 0.0)
        return np.asarray(matrix)
