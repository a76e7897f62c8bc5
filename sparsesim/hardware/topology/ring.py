from __future__ import annotations

from pydantic import Field

from sparsesim.hardware.topology.base.grid import Cell, Grid


class Ring(Grid):
    """Devices in a circle, a link to either neighbour."""

    gpus: int = Field(gt=1, description="devices of the ring")

    def sides(self) -> Cell:
        """One dimension."""
        return (self.gpus,)
