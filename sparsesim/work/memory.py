"""Kernels bound by memory: pointwise passes and copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsesim.work.base import Array, Op, column, dtype_bytes

EAGER_PASSES: dict[str, tuple[float, float]] = {
    "widen": (1, 2),
    "narrow": (2, 1),
    "square": (1, 1),
    "mean": (1, 0),
    "scale": (1, 1),
    "weight": (1, 1),
    "expand": (0, 1),
    "column_sum": (1, 0),
    "sum": (2, 1),
    "function": (1, 1),
    "product": (2, 1),
    "rotate": (1, 1),
    "negate": (1, 1),
    "concatenate": (1, 1),
    "rotated_sum": (2, 1),
    "transpose": (1, 1),
}
"""The same of an eager framework's own kernels, which are slower where they change the type (widen, narrow), broadcast
one factor a row (scale, expand) or a column (weight), or walk heads that lie across each other (the last five).
"""
PASSES: dict[str, tuple[float, float]] = {
    **EAGER_PASSES,
    "norm": (1, 1),
    "add_norm": (2, 2),
    "residual": (2, 1),
    "silu_mul": (2, 1),
    "relu_mul": (2, 1),
    "activation": (1, 1),
    "rope": (1, 1),
    "quantize": (1, 0.5),
    "embedding": (1, 1),
    "softmax": (1, 1),
    "sample": (1, 0),
    "topk": (1, 0),
    "conv": (1, 1),
    "cast": (1, 2),
    "read": (1, 0),
    "write": (0, 1),
}
"""Elements read and written per output element `tokens x width`, counted on the operation's definition; widened and
narrowed ones count as two of bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise(Op):
    """A pass over activations [tokens, width]."""

    op: ClassVar[str] = "pointwise"
    kind: str = column("; ".join(PASSES))
    tokens: Array = column("rows", "tok")
    width: Array = column("elements of a row")
    dtype: str = column("of the elements", default="bf16")

    def hbm_bytes(self) -> Array:
        """Reads and writes of the pass."""
        if self.kind not in PASSES:
            raise ValueError(f"unknown pointwise kind {self.kind!r}; known: {', '.join(PASSES)}")
        read, written = PASSES[self.kind]
        return (read + written) * self.tokens * self.width * dtype_bytes(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Op):
    """A device-to-device copy."""

    op: ClassVar[str] = "copy"
    bytes: Array = column("bytes copied: read once and written once", "B")

    def hbm_bytes(self) -> Array:
        """Read and written."""
        return 2.0 * self.bytes
