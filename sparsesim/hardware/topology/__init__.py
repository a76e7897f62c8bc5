"""Topologies: how devices are linked. One kind per module; named ones with their sources in
scenarios/topologies.
"""

from __future__ import annotations

from sparsesim.hardware.topology.base import (
    Fabric,
    Network,
    Routes,
    Topology,
    TopologyFile,
    load_topology,
    own_topology,
    topology_names,
)

__all__ = ["Fabric", "Network", "Routes", "Topology", "TopologyFile", "load_topology", "own_topology", "topology_names"]
