"""Dense matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsesim.work.base import COMPUTE_DTYPE, Array, Op, column, dtype_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(Op):
    """y[m, n] = x[m, k] w[k, n], weights read from device memory."""

    op: ClassVar[str] = "gemm"
    m: Array = column("rows: tokens", "tok")
    n: Array = column("columns of the weight: outputs")
    k: Array = column("inner dimension: inputs")
    dtype: str = column("of the multiply-adds and, unless weights says otherwise, of the weights", default="bf16")
    weights: str = column("storage of the weights where it differs from dtype", default="")
    density: Array = column("share of non-zero inputs; a GPU's dense kernel gains nothing from it", default=1.0)

    def flop(self) -> Array:
        """2 m n k."""
        return 2.0 * self.m * self.n * self.k

    def hbm_bytes(self) -> Array:
        """Weights, inputs and outputs once each; outputs of fp8 products are bf16."""
        activation = dtype_bytes(COMPUTE_DTYPE.get(self.dtype, self.dtype))
        weight = dtype_bytes(self.weights or self.dtype)
        output = max(activation, 2.0)
        return self.n * self.k * weight + self.m * self.k * activation + self.m * self.n * output


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdGemv(Op):
    """y = W s(x) for few tokens, columns of W whose input fell below the threshold skipped."""

    op: ClassVar[str] = "threshold_gemv"
    tokens: Array = column("tokens", "tok")
    d_in: Array = column("inputs")
    d_out: Array = column("outputs")
    density: Array = column("share of inputs that survive the threshold")
    dtype: str = column("of weights and activations", default="bf16")

    def columns_read(self) -> Array:
        """Weight columns any of the tokens needs, survivors independent between tokens."""
        return self.d_in * (1.0 - (1.0 - self.density) ** self.tokens)

    def flop(self) -> Array:
        """Multiply-adds of the survivors."""
        return 2.0 * self.tokens * self.density * self.d_in * self.d_out

    def hbm_bytes(self) -> Array:
        """The surviving columns, the inputs and the outputs."""
        size = dtype_bytes(self.dtype)
        return size * (self.columns_read() * self.d_out + self.tokens * (self.d_in + self.d_out))
