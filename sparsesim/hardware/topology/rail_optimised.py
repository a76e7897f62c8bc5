from __future__ import annotations

from sparsesim.hardware.topology.base.clos import Clos


class RailOptimised(Clos):
    """NIC i of every node under the same leaf goes to the leaf of rail i; other rails are reached over the
    spine.
    """

    def leaf(self, node: int, nic: int) -> str:
        """One leaf per rail and group of nodes."""
        return f"leaf{node // (self.nodes_per_leaf or self.nodes)}.rail{nic}"
