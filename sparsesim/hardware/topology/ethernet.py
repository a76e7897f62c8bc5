from __future__ import annotations

import networkx as nx
from pydantic import Field

from sparsesim.hardware.topology.base import Fabric, Topology
from sparsesim.hardware.topology.base.network import Link, connect
from sparsesim.units import BytesPerSecond, JoulesPerByte, Seconds


class Ethernet(Topology):
    """Hosts with devices on PCIe, one network port each, on one switch."""

    hosts: int = Field(gt=0)
    gpus_per_host: int = Field(1, gt=0)
    pcie: BytesPerSecond = Field(description="of one device to its host, each direction")
    pcie_latency: Seconds = Field(description="device to device inside a host")
    pcie_energy: JoulesPerByte = Field(description="device to device inside a host")
    port: BytesPerSecond = Field(description="of one host, each direction")
    port_latency: Seconds = Field(description="host to host through the switch")
    port_energy: JoulesPerByte = Field(description="host to host: ports, cables and switch ports")

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.hosts * self.gpus_per_host

    def graph(self) -> nx.DiGraph:
        """Devices to hosts, hosts to the switch."""
        graph = nx.DiGraph()
        inside = Link(self.pcie, self.pcie_latency / 2, self.pcie_energy / 2, 1, "link")
        outside = Link(self.port, self.port_latency / 2, self.port_energy / 2, 2, "nic")
        for rank in range(self.devices):
            graph.add_node(f"gpu{rank}", rank=rank)
            connect(graph, f"gpu{rank}", f"host{rank // self.gpus_per_host}", inside)
        for host in range(self.hosts if self.hosts > 1 else 0):
            connect(graph, f"host{host}", "switch0", outside)
        return graph

    def fabric(self) -> Fabric:
        """One NIC per host; its latency and energy include the way over PCIe."""
        return Fabric(
            gpus_per_node=self.gpus_per_host,
            link_bytes_per_s=self.pcie,
            hop_s=self.pcie_latency,
            nodes=self.hosts,
            nic_bytes_per_s=self.port,
            nics_per_node=1,
            rdma_s=self.port_latency + self.pcie_latency,
            rails=False,
            link_j_per_byte=self.pcie_energy,
            nic_j_per_byte=self.port_energy + self.pcie_energy,
        )
