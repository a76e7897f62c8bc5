"""The three matrices of a gated FFN, laid out by neuron so that a skipped neuron is a row not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.kernels.common.requirements import require_multiple, require_tensor
from sparsesim.kernels.twell.format import MAX_NEURONS, SIZE_GRID

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class FusedWeights:
    """Gate and up joined to one ``[2F, d]`` matrix, beside down ``[F, d]``: what one gate+up product wants."""

    gate_up: Any
    down: Any

    @classmethod
    def of(cls, weights: FfnWeights) -> FusedWeights:
        """Join the gate and up matrices (a copy)."""
        return cls(torch.cat([weights.gate, weights.up]), weights.down)


@dataclass(frozen=True)
class FfnWeights:
    """``gate``, ``up`` and ``down``, each ``[F, d]`` and contiguous: row ``j`` belongs to neuron ``j``.

    ``down`` is the transpose of the ``[d, F]`` weight of a ``torch.nn.Linear(F, d)``; see ``from_linear``.
    """

    gate: Any
    up: Any
    down: Any

    def __post_init__(self) -> None:
        """Raise ``KernelRequirementError`` where shapes, types or sizes do not fit."""
        require_tensor("twell", "gate", self.gate, (None, None), DTYPES)
        shape = tuple(self.gate.shape)
        require_multiple("twell", "F", shape[0], SIZE_GRID, MAX_NEURONS)
        require_multiple("twell", "d", shape[1], SIZE_GRID)
        for name, tensor in (("up", self.up), ("down", self.down)):
            require_tensor("twell", name, tensor, shape, (self.gate.dtype,))

    @property
    def neurons(self) -> int:
        """Hidden neurons F."""
        return int(self.gate.shape[0])

    @property
    def width(self) -> int:
        """Model width d."""
        return int(self.gate.shape[1])

    @classmethod
    def from_linear(cls, gate: Any, up: Any, down: Any) -> FfnWeights:
        """From the ``weight`` tensors of three ``torch.nn.Linear``: ``[F, d]``, ``[F, d]``, ``[d, F]``."""
        return cls(gate.contiguous(), up.contiguous(), down.T.contiguous())

    def permuted(self, order: Any) -> FfnWeights:
        """The same FFN with its neurons in another order (exact: a sum over neurons)."""
        return FfnWeights(*(tensor[order].contiguous() for tensor in (self.gate, self.up, self.down)))

    def by_frequency(self, frequency: Any) -> FfnWeights:
        """The same FFN with its most frequent neurons first (``frequency [F]``), as the path ``hot_cold`` wants it."""
        order = torch.argsort(torch.as_tensor(frequency), descending=True, stable=True)
        return self.permuted(order.to(self.gate.device))
