from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sparsesim.hardware.topology.base.grid import Cell, Grid


class Mesh(Grid):
    """A mesh network on chip: cores on a grid with open sides."""

    wraps: ClassVar[bool] = False

    dimensions: tuple[int, ...] = Field(min_length=2, max_length=3, description="cores along each side")

    def sides(self) -> Cell:
        """As given."""
        return self.dimensions
