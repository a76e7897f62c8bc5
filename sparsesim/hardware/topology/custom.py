from __future__ import annotations

from typing import ClassVar, Self

import networkx as nx
from pydantic import Field, model_validator

from sparsesim.errors import closest
from sparsesim.families import Frozen
from sparsesim.hardware.topology.base import Topology
from sparsesim.hardware.topology.base.network import Link
from sparsesim.units import BytesPerSecond, JoulesPerByte, Seconds


class Cable(Frozen):
    """A link between two named nodes."""

    between: tuple[str, str]
    bandwidth: BytesPerSecond = Field(description="each direction")
    latency: Seconds
    energy: JoulesPerByte
    metric: int = Field(1, gt=0, description="routes minimise its sum")
    one_way: bool = Field(False, description="only from the first to the second")


class Custom(Topology):
    """Any graph: devices and switches by name, and the links between them."""

    transit: ClassVar[bool] = False

    gpus: tuple[str, ...] = Field(min_length=1, description="names of the devices, in rank order")
    switches: tuple[str, ...] = ()
    links: tuple[Cable, ...]

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        names = [*self.gpus, *self.switches]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        for name in (end for cable in self.links for end in cable.between):
            if name not in names:
                raise ValueError(f"a link ends at {name!r}, neither in gpus nor in switches; {closest(name, names)}")
        return self

    @property
    def devices(self) -> int:
        """Devices in all."""
        return len(self.gpus)

    def graph(self) -> nx.DiGraph:
        """As written."""
        graph = nx.DiGraph()
        for rank, name in enumerate(self.gpus):
            graph.add_node(name, rank=rank)
        graph.add_nodes_from(self.switches)
        for cable in self.links:
            one, other = cable.between
            link = Link(cable.bandwidth, cable.latency, cable.energy, cable.metric)
            graph.add_edge(one, other, link=link)
            if not cable.one_way:
                graph.add_edge(other, one, link=link)
        return graph
