"""The family's base, and its result."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem
from sparsesim.families import Member

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Assignment:
    """Expert in every slot of every rank, `[ranks, slots]`; -1 is an empty slot.

    A token for an expert of several copies goes to one of them at random, evenly.
    """

    expert: Ints
    experts: int

    @property
    def ranks(self) -> int:
        """Expert-parallel ranks."""
        return len(self.expert)

    @cached_property
    def share(self) -> Floats:
        """Share of each expert's tokens that each rank serves, `[ranks, experts]`; columns sum to 1."""
        held = np.zeros((self.ranks, self.experts))
        rank, slot = np.nonzero(self.expert >= 0)
        np.add.at(held, (rank, self.expert[rank, slot]), 1.0)
        return np.asarray(held / held.sum(axis=0))

    @cached_property
    def key(self) -> bytes:
        """What caches are keyed by."""
        return self.expert.tobytes() + bytes(str(self.expert.shape), "ascii")

    def rank_load(self, load: Floats) -> Floats:
        """Load of every rank, `[ranks]`, for loads of the experts, `[experts]`."""
        return np.asarray(self.share @ load)

    def by_node(self, gpus_per_node: int) -> Assignment:
        """The same with a node as a rank.

        Raises:
            InputError: the ranks do not fill the nodes.

        """
        if self.ranks % gpus_per_node:
            raise InputError(Problem(f"{self.ranks} expert-parallel ranks do not fill nodes of {gpus_per_node}"))
        return Assignment(self.expert.reshape(self.ranks // gpus_per_node, -1), self.experts)


class Placement(Member, family="sparsesim.cost.network.placement"):
    """Says where experts go, given their loads."""

    def slots(self, experts: int, ranks: int) -> int:
        """Slots of all ranks together, those for copies and empty ones included: as many on every rank."""
        return -(-experts // ranks) * ranks

    @abstractmethod
    def place(self, load: Floats, ranks: int) -> Assignment:
        """Experts (with `load[e]`, any unit) to `ranks` ranks.

        Raises:
            InputError: the experts do not divide among the ranks and this kind cannot do without.

        """


def pack(load: Floats, ranks: int, slots: int) -> list[list[int]]:
    """Items to ranks of at most `slots` each: the heaviest first, to the rank with the least load so far.

    Longest-processing-time rule: at most 4/3 of the best possible maximum where slots do not bind (Graham 1969).
    """
    heap = [(0.0, rank) for rank in range(ranks)]
    held: list[list[int]] = [[] for _ in range(ranks)]
    for item in np.argsort(-load, kind="stable"):
        total, rank = heapq.heappop(heap)
        held[rank].append(int(item))
        if len(held[rank]) < slots:
            heapq.heappush(heap, (total + float(load[item]), rank))
    return held


def table(held: list[list[int]], slots: int) -> Ints:
    """Lists as a table, empty slots -1."""
    return np.array([[*items, *[-1] * (slots - len(items))] for items in held], dtype=np.int64)
