from __future__ import annotations

import networkx as nx
from pydantic import Field

from sparsesim.hardware.topology.base import Fabric, Topology
from sparsesim.hardware.topology.base.network import Link, connect
from sparsesim.units import BytesPerSecond, JoulesPerByte, Seconds


class NvlinkIsland(Topology):
    """Devices behind one non-blocking switch: an 8-GPU node, or an NVL72 domain."""

    gpus: int = Field(gt=0, description="devices of the island")
    link: BytesPerSecond = Field(description="of one device, each direction")
    link_latency: Seconds = Field(description="device to device through the switch")
    link_energy: JoulesPerByte = Field(description="device to device through the switch")
    in_switch_reduction: bool = Field(False, description="whether the switch adds up (NVLS)")

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.gpus

    def graph(self) -> nx.DiGraph:
        """A star."""
        graph = nx.DiGraph()
        for rank in range(self.gpus):
            graph.add_node(f"gpu{rank}", rank=rank)
            connect(graph, f"gpu{rank}", "switch0", Link(self.link, self.link_latency / 2, self.link_energy / 2))
        return graph

    def fabric(self) -> Fabric:
        """One node."""
        return Fabric(
            gpus_per_node=self.gpus,
            link_bytes_per_s=self.link,
            hop_s=self.link_latency,
            link_j_per_byte=self.link_energy,
            in_switch_reduction=self.in_switch_reduction,
        )
