"""A two-level fabric in a dozen plain numbers: what closed forms need of islands joined by NICs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sparsesim.errors import InputError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """Nodes of `gpus_per_node` devices behind a switch, joined by NICs over leaf and spine switches.

    Bandwidths are per device and direction (`link`) and per NIC and direction (`nic`), as achieved or as
    nominal: the caller says which by what it passes. `hop_s` is device to device through the node's switch,
    `rdma_s` device to device through two NICs. `nodes_per_leaf` 0 puts every node on the same leaf
    switches. `oversubscription` divides what a leaf can send to the spine. `penalty` divides inter-node
    bandwidth: 1 unless measured at that size (beyond measured node counts 1.5-3 is seen, which no form
    predicts: facts, kernel_forms).
    """

    gpus_per_node: int
    link_bytes_per_s: float
    hop_s: float
    nodes: int = 1
    nic_bytes_per_s: float = 0.0
    nics_per_node: int = 0
    rdma_s: float = 0.0
    nodes_per_leaf: int = 0
    rails: bool = True
    oversubscription: float = 1.0
    penalty: float = 1.0
    link_j_per_byte: float = 0.0
    nic_j_per_byte: float = 0.0
    in_switch_reduction: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning, every fault at once."""
        problems = [
            Problem(f"{name} is {getattr(self, name)}", path=f"fabric.{name}", hint="a value above 0")
            for name in ("gpus_per_node", "link_bytes_per_s", "nodes", "penalty")
            if not getattr(self, name) > 0
        ]
        if self.nodes > 1 and not (self.nic_bytes_per_s > 0 and self.nics_per_node > 0):
            shown = f"{self.nics_per_node} NICs of {self.nic_bytes_per_s} B/s"
            problems.append(Problem(f"{self.nodes} nodes are joined by {shown}", path="fabric.nic_bytes_per_s"))
        if self.nics_per_node > 0 and self.gpus_per_node % self.nics_per_node:
            shown = f"{self.gpus_per_node} devices of a node do not divide among {self.nics_per_node} NICs"
            problems.append(Problem(shown, path="fabric.nics_per_node"))
        if not self.oversubscription >= 1.0:
            problems.append(Problem(f"{self.oversubscription} is below 1", path="fabric.oversubscription"))
        negative = [
            f.name for f in fields(self) if f.name.endswith(("_s", "_j_per_byte")) and getattr(self, f.name) < 0
        ]
        problems += [Problem(f"{name} is negative", path=f"fabric.{name}") for name in negative]
        if problems:
            raise InputError(problems)

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.gpus_per_node

    @property
    def gpus_per_nic(self) -> int:
        """Devices that share a NIC."""
        return self.gpus_per_node // max(self.nics_per_node, 1)

    @property
    def leaf_nodes(self) -> int:
        """Nodes under the same leaf switches."""
        return self.nodes_per_leaf or self.nodes
