"""Nodes of devices behind a switch, joined by NICs over leaf and spine: what the tree kinds share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import networkx as nx
from pydantic import Field, model_validator

from sparsesim.hardware.topology.base.fabric import Fabric
from sparsesim.hardware.topology.base.family import Topology
from sparsesim.hardware.topology.base.network import Link, connect
from sparsesim.units import BytesPerSecond, JoulesPerByte, Seconds

SPINE = "spine"


class Clos(Topology):
    """Fields of a tree of two levels; a subclass says to which leaf a NIC goes.

    The spine is one node whose links to the leaves carry what the leaf's NICs carry divided by
    `oversubscription`: the same as many spines under perfect spreading.
    """

    nodes: int = Field(gt=0, description="nodes in all")
    gpus_per_node: int = Field(8, gt=0)
    link: BytesPerSecond = Field(description="of one device into its node's switch, each direction")
    link_latency: Seconds = Field(description="device to device through the node's switch")
    link_energy: JoulesPerByte = Field(description="device to device through the node's switch")
    nic: BytesPerSecond = Field(description="of one NIC, each direction")
    nics_per_node: int = Field(8, gt=0)
    nic_latency: Seconds = Field(description="device to device through two NICs under one leaf")
    nic_energy: JoulesPerByte = Field(
        description="device to device through two NICs under one leaf, optics and ports included; going over the spine "
        "costs as much again (assumed: as many optics and ports)"
    )
    nodes_per_leaf: int = Field(0, ge=0, description="nodes under one leaf (of each rail); 0: all")
    spine_latency: Seconds = Field("0.6 us", validate_default=True, description="added by going over the spine")
    oversubscription: float = Field(
        1.0, ge=1.0, description="NIC bandwidth under a leaf over its bandwidth to the spine"
    )
    in_switch_reduction: bool = Field(False, description="whether the node's switch adds up (NVLS, SHARP)")

    @model_validator(mode="after")
    def _nics_divide(self) -> Self:
        if self.gpus_per_node % self.nics_per_node:
            raise ValueError(
                f"{self.gpus_per_node} gpus_per_node do not divide among {self.nics_per_node} nics_per_node"
            )
        return self

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.gpus_per_node

    def leaf(self, node: int, nic: int) -> str:
        """Name of the leaf switch a NIC goes to."""
        raise NotImplementedError

    @property
    def rails(self) -> bool:
        """Whether NIC i of every node shares a leaf."""
        return self.leaf(0, 0) != self.leaf(0, 1)

    def graph(self) -> nx.DiGraph:
        """Devices, node switches, leaves, and a spine where there is more than one leaf."""
        graph = nx.DiGraph()
        for rank in range(self.devices):
            graph.add_node(f"gpu{rank}", rank=rank)
        for node in range(self.nodes):
            self._wire_node(graph, node)
        self._wire_spine(graph)
        return graph

    def _wire_node(self, graph: nx.DiGraph, node: int) -> None:
        inside = Link(self.link, self.link_latency / 2, self.link_energy / 2, 1, "link")
        outside = Link(self.nic, self.nic_latency / 2, self.nic_energy / 2, 2, "nic")
        shared = self.nics_per_node < self.gpus_per_node
        for nic in range(self.nics_per_node if self.nodes > 1 else 0):
            if shared:
                connect(graph, f"nic{node}.{nic}", self.leaf(node, nic), outside)
        for slot in range(self.gpus_per_node):
            gpu, nic = (
                f"gpu{node * self.gpus_per_node + slot}",
                slot * self.nics_per_node // self.gpus_per_node,
            )
            if self.gpus_per_node > 1:
                connect(graph, gpu, f"switch{node}", inside)
            if shared and self.nodes > 1:
                connect(graph, gpu, f"nic{node}.{nic}", Link(self.nic, 0.0, 0.0, 2, "host"))
            elif self.nodes > 1:
                connect(graph, gpu, self.leaf(node, nic), outside)

    def _wire_spine(self, graph: nx.DiGraph) -> None:
        leaves = {leaf: count for leaf, count in self._leaves() if self.nodes > 1}
        for leaf, nics in leaves.items():
            if len(leaves) > 1:
                up = self.nic * nics / self.oversubscription
                connect(graph, leaf, SPINE, Link(up, self.spine_latency / 2, self.nic_energy / 2, 2, SPINE))

    def _leaves(self) -> Iterator[tuple[str, int]]:
        names = [self.leaf(node, nic) for node in range(self.nodes) for nic in range(self.nics_per_node)]
        return ((name, names.count(name)) for name in dict.fromkeys(names))

    def fabric(self) -> Fabric:
        """The same in plain numbers."""
        return Fabric(
            gpus_per_node=self.gpus_per_node,
            link_bytes_per_s=self.link,
            hop_s=self.link_latency,
            nodes=self.nodes,
            nic_bytes_per_s=self.nic,
            nics_per_node=self.nics_per_node,
            rdma_s=self.nic_latency,
            nodes_per_leaf=self.nodes_per_leaf,
            rails=self.rails,
            oversubscription=self.oversubscription,
            link_j_per_byte=self.link_energy,
            nic_j_per_byte=self.nic_energy,
            in_switch_reduction=self.in_switch_reduction,
        )
