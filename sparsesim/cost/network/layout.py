"""Which device holds which rank of every parallel axis, and how many nodes a group spans."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of the axes and their order on the devices, innermost first: the first shares a node most.

    Expert parallelism runs over the tp x dp devices of a pipeline stage; `ep` divides tp*dp.
    """

    devices: int
    gpus_per_node: int
    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    order: tuple[str, ...] = ("tp", "cp", "dp", "pp")

    def __post_init__(self) -> None:
        """Refuse axes that do not fill the devices."""
        problems = []
        sizes = {axis: getattr(self, axis) for axis in ("tp", "cp", "dp", "pp")}
        if sorted(self.order) != sorted(sizes):
            problems.append(Problem(f"order {self.order} must hold each of {', '.join(sizes)} once"))
        filled = prod(sizes.values())
        if filled < 1 or self.devices % filled:
            shown = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
            problems.append(Problem(f"{shown} = {filled} devices a replica do not fill {self.devices} devices"))
        if self.ep < 1 or (self.tp * self.dp) % self.ep:
            problems.append(Problem(f"ep {self.ep} does not divide tp*dp = {self.tp * self.dp}"))
        if problems:
            raise InputError(problems)

    @property
    def replicas(self) -> int:
        """Copies of the model on the devices."""
        return self.devices // (self.tp * self.cp * self.dp * self.pp)

    def _grid(self) -> Ints:
        """Device numbers, `[replicas, *order reversed]`."""
        sizes = [getattr(self, axis) for axis in reversed(self.order)]
        return np.arange(self.devices).reshape(self.replicas, *sizes)

    def groups(self, axis: str) -> Ints:
        """Devices of every group of an axis, `[groups, size]`.

        Raises:
            InputError: unknown axis.

        """
        if axis == "ep":
            return self._expert_groups()
        if axis not in self.order:
            raise InputError(Problem(f"unknown axis {axis!r}", hint=f"one of: {', '.join((*self.order, 'ep'))}"))
        at = 1 + len(self.order) - 1 - self.order.index(axis)
        return np.moveaxis(self._grid(), at, -1).reshape(-1, getattr(self, axis))

    def _expert_groups(self) -> Ints:
        places = [1 + len(self.order) - 1 - self.order.index(axis) for axis in ("dp", "tp")]
        stage = np.moveaxis(self._grid(), sorted(places), (-2, -1))
        return stage.reshape(-1, self.ep)

    def nodes_spanned(self, axis: str) -> int:
        """Most nodes that a group of the axis touches."""
        nodes = self.groups(axis) // self.gpus_per_node
        return int(max(len(np.unique(group)) for group in nodes))
