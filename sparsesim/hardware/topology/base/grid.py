"""Devices on a grid, each linked to its neighbours: ring, torus, mesh."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import ClassVar

import networkx as nx
from pydantic import Field

from sparsesim.hardware.topology.base.family import Topology
from sparsesim.hardware.topology.base.network import Link, connect
from sparsesim.units import BytesPerSecond, JoulesPerByte, Seconds

Cell = tuple[int, ...]


class Grid(Topology):
    """A subclass says how long each side is and whether it closes on itself.

    Ranks run along the last side first; routes go along the first dimension first.
    """

    transit: ClassVar[bool] = True
    wraps: ClassVar[bool] = True

    link: BytesPerSecond = Field(description="to one neighbour, each direction")
    link_latency: Seconds = Field(description="to one neighbour")
    link_energy: JoulesPerByte = Field(description="to one neighbour")

    def sides(self) -> Cell:
        """Devices along each dimension."""
        raise NotImplementedError

    @property
    def devices(self) -> int:
        """Devices in all."""
        return prod(self.sides())

    def rank(self, cell: Cell) -> int:
        """Rank of the device at a cell."""
        rank = 0
        for at, side in zip(cell, self.sides(), strict=True):
            rank = rank * side + at
        return rank

    def graph(self) -> nx.DiGraph:
        """Every device linked to its neighbours in every dimension."""
        graph = nx.DiGraph()
        cells = list(product(*(range(side) for side in self.sides())))
        for cell in cells:
            graph.add_node(f"gpu{self.rank(cell)}", rank=self.rank(cell))
        for cell in cells:
            for axis, neighbour in self._next(cell):
                link = Link(self.link, self.link_latency, self.link_energy, order=axis)
                connect(graph, f"gpu{self.rank(cell)}", f"gpu{self.rank(neighbour)}", link)
        return graph

    def _next(self, cell: Cell) -> Iterator[tuple[int, Cell]]:
        """Dimension and following neighbour in it; a side of two has one link between the two, not two."""
        for axis, side in enumerate(self.sides()):
            at = cell[axis] + 1
            if at < side or (self.wraps and side > 2):
                yield axis, (*cell[:axis], at % side, *cell[axis + 1 :])
