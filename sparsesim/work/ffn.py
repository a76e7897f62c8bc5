"""Feed-forward kernels that are sparse: experts, and activation-sparse gated ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsesim.work.base import Array, Op, column, dtype_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeFfn(Op):
    """One rank's permute, grouped gate+up, activation, grouped down and combine; no router product, no network.

    Bytes and FLOP depend on which experts the routing hits: the cost core asks `laws` for them.
    """

    op: ClassVar[str] = "moe_ffn"
    tokens: Array = column("tokens of the whole expert-parallel group", "tok")
    d_model: Array = column("width of the residual stream")
    d_ff: Array = column("width of an expert before tensor parallelism")
    experts: int = column("experts routed over")
    top_k: int = column("experts per token")
    ep: int = column("ranks the experts are spread over", default=1)
    tp: int = column("ranks one expert is split over", default=1)
    load: str = column(
        "expert load: uniform, zipf or zipf:EXPONENT, ...; skewed means the hottest rank", default="uniform"
    )
    dtype: str = column("of the multiply-adds and, unless weights says otherwise, of the weights", default="bf16")
    weights: str = column("storage of the weights where it differs from dtype", default="")
    gated: bool = column("gate and up projections, or up alone", default=True)
    density: Array = column("share of non-zero inputs of the down projection", default=1.0)

    def expert_parameters(self) -> Array:
        """Weights of one expert's shard."""
        return (3.0 if self.gated else 2.0) * self.d_model * self.d_ff / self.tp

    def flop(self) -> Array:
        """Of the mean rank: tokens * top_k / ep rows through one expert's shard each."""
        return 2.0 * self.tokens * self.top_k / self.ep * self.expert_parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseFfn(Op):
    """y = (relu(x Wg) * (x Wu)) Wd with nnz active neurons a token, in one of the sparse formats or dense."""

    op: ClassVar[str] = "sparse_ffn"
    tokens: Array = column("tokens", "tok")
    d_model: Array = column("width of the residual stream")
    d_ff: Array = column("neurons")
    nnz: Array = column("mean active neurons a token")
    pattern: str = column("zipf or independent: how often each neuron is active", default="zipf")
    format: str = column("dense, twell, compact, ell, csr or auto (the fastest)", default="auto")
    dtype: str = column("of weights and activations", default="bf16")

    def flop(self) -> Array:
        """The dense gate product and the active rows of up and down."""
        return 2.0 * self.tokens * self.d_model * (self.d_ff + 2.0 * self.nnz)

    def hbm_bytes(self) -> Array:
        """Weights once, input and output once: what remains when every gather hits the caches."""
        size = dtype_bytes(self.dtype)
        return size * (3.0 * self.d_model * self.d_ff + 2.0 * self.tokens * self.d_model)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseFfnTrain(Op):
    """Forward and backward of the same FFN in the hybrid format of training: sparse rows, and a dense tail."""

    op: ClassVar[str] = "sparse_ffn_train"
    tokens: Array = column("tokens", "tok")
    d_model: Array = column("width of the residual stream")
    d_ff: Array = column("neurons")
    nnz: Array = column("mean active neurons a token")
    pattern: str = column("zipf or independent: how often each neuron is active", default="zipf")
    dtype: str = column("of weights and activations", default="bf16")

    def flop(self) -> Array:
        """The dense gate product, the active rows of up and down, and twice the active rows of all three."""
        return 2.0 * self.tokens * self.d_model * (self.d_ff + 8.0 * self.nnz)

    def hbm_bytes(self) -> Array:
        """Weights and their gradients once; input, output and their gradients once."""
        size = dtype_bytes(self.dtype)
        return size * (6.0 * self.d_model * self.d_ff + 4.0 * self.tokens * self.d_model)
