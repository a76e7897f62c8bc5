from __future__ import annotations

from sparsesim.hardware.topology.base.clos import Clos


class FatTree(Clos):
    """All NICs of a node go to the same leaf; leaves meet at the spine."""

    def leaf(self, node: int, nic: int) -> str:
        """One leaf per group of nodes."""
        del nic
        return f"leaf{node // (self.nodes_per_leaf or self.nodes)}"
