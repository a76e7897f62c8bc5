from __future__ import annotations

from pydantic import Field

from sparsesim.hardware.topology.base.grid import Cell, Grid


class Torus(Grid):
    """Devices on a grid of two or three dimensions whose sides close on themselves."""

    dimensions: tuple[int, ...] = Field(min_length=2, max_length=3, description="devices along each side")

    def sides(self) -> Cell:
        """As given."""
        return self.dimensions
