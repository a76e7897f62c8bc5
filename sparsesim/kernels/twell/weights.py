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

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one of the three matrices."""
        return int(self.gate.numel() * self.gate.element_size())

    @classmethod
    def from_linear(cls, gate: Any, up: Any, down: Any) -> FfnWeights:
        """From the ``weight`` tensors of three ``torch.nn.Linear``: ``[F, d]``, ``[F, d]``, ``[d, F]``."""
        return cls(gate.contiguous(), up.contiguous(), down.T.contiguous())

    def permuted(self, order: Any) -> FfnWeights:
        """The same FFN with its neurons in another order (exact: a sum over neurons)."""
        return FfnWeights(*(tensor[order].contiguous() for tensor in (self.gate, self.up, self.down)))


@dataclass(frozen=True)
class SplitWeights:
    """The same FFN as a sum of two: its ``hot`` neurons, computed densely, and its ``cold`` ones, sparsely."""

    hot: FusedWeights
    cold: FfnWeights

    @classmethod
    def of(cls, weights: FfnWeights, frequency: Any, hot: int = 256) -> SplitWeights:
        """Split by neuron frequency ``[F]``: the ``hot`` most frequent go dense (a multiple of 64 below F).

        256 of 5632 hold 57 % of the non-zeros on a Zipf pattern for 4.5 % of the dense work.
        """
        require_multiple("twell split", "hot", hot, SIZE_GRID, weights.neurons - SIZE_GRID)
        order = torch.argsort(torch.as_tensor(frequency), descending=True, stable=True).to(weights.gate.device)
        sorted_weights = weights.permuted(order)
        parts = (sorted_weights.gate, sorted_weights.up, sorted_weights.down)
        return cls(
            FusedWeights.of(FfnWeights(*(part[:hot].contiguous() for part in parts))),
            FfnWeights(*(part[hot:].contiguous() for part in parts)),
        )

    @property
    def width(self) -> int:
        """Model width d."""
        return self.cold.width
