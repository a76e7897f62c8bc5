"""What every topology shares: the graph as arrays, routes over it, the two-level summary, and named files."""

from __future__ import annotations

from sparsesim.hardware.topology.base.fabric import Fabric
from sparsesim.hardware.topology.base.family import Topology
from sparsesim.hardware.topology.base.file import TopologyFile, load_topology, topology_names
from sparsesim.hardware.topology.base.network import Network
from sparsesim.hardware.topology.base.own import own_topology
from sparsesim.hardware.topology.base.routing import Routes

__all__ = ["Fabric", "Network", "Routes", "Topology", "TopologyFile", "load_topology", "own_topology", "topology_names"]
