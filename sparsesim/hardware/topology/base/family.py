"""The family's base."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import networkx as nx

from sparsesim.errors import InputError, Problem
from sparsesim.families import Member
from sparsesim.hardware.topology.base.fabric import Fabric
from sparsesim.hardware.topology.base.network import Network, from_graph
from sparsesim.hardware.topology.base.routing import Routes


class Topology(Member, family="sparsesim.hardware.topology"):
    """How devices are linked: a graph, and a two-level summary where it has two levels."""

    transit: ClassVar[bool] = False
    """Whether devices forward what is not for them."""

    @property
    @abstractmethod
    def devices(self) -> int:
        """Devices in all."""

    @abstractmethod
    def graph(self) -> nx.DiGraph:
        """Devices carry their `rank`, edges a `Link`."""

    def fabric(self) -> Fabric:
        """The two-level summary for closed forms.

        Raises:
            InputError: this kind has no islands; its collectives go by link loads.

        """
        raise InputError(
            Problem(f"topology {self.kind!r} has no islands joined by NICs; its collectives go by link loads")
        )

    def network(self) -> Network:
        """The graph as checked arrays (built once per topology).

        Raises:
            InputError: disconnected, or a link without bandwidth.

        """
        return _network(self)

    def routes(self) -> Routes:
        """Routes over `network()` (computed once per topology)."""
        return _routes(self)


@lru_cache(maxsize=64)
def _network(topology: Topology) -> Network:
    return from_graph(topology.graph(), topology.transit)


@lru_cache(maxsize=16)
def _routes(topology: Topology) -> Routes:
    return Routes(_network(topology))
