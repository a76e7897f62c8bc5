"""Messages between devices; `bytes` is the buffer as nccl-tests counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsesim.work.base import Array, Op, column, dtype_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Op):
    """A message pattern over `gpus` devices spread over `nodes` nodes."""

    gpus: Array = column("ranks that take part")
    nodes: Array = column("nodes they are spread over", default=1.0)
    bytes: Array = column("buffer: all_gather's output, reduce_scatter's input, else what each rank holds", "B")
    dtype: str = column("of the elements", default="bf16")
    nvls: bool = column("in-switch reduction available", default=False)

    def link_bytes(self) -> Array:
        """What a rank sends in the direct or ring form: (n-1)/n of the buffer."""
        return self.bytes * (self.gpus - 1.0) / self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce(Collective):
    """Sum of a buffer on every rank: a reduce-scatter and an all-gather."""

    op: ClassVar[str] = "all_reduce"

    def link_bytes(self) -> Array:
        """Twice (n-1)/n of the buffer."""
        return 2.0 * self.bytes * (self.gpus - 1.0) / self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class AllGather(Collective):
    """Every rank ends with all shards; bytes is the gathered output."""

    op: ClassVar[str] = "all_gather"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceScatter(Collective):
    """Every rank ends with one reduced shard; bytes is the input."""

    op: ClassVar[str] = "reduce_scatter"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllToAll(Collective):
    """Every rank sends a part of its buffer to every rank; skew is the busiest rank's load over the mean."""

    op: ClassVar[str] = "all_to_all"
    skew: Array = column("bytes on the busiest rank's link over the mean", default=1.0)

    def link_bytes(self) -> Array:
        """Of the busiest rank."""
        return self.skew * self.bytes * (self.gpus - 1.0) / self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Send(Op):
    """One rank's buffer to one other; over more than one node through the NIC."""

    op: ClassVar[str] = "send"
    gpus: Array = column("ranks that take part", default=2.0)
    nodes: Array = column("nodes they are spread over", default=1.0)
    bytes: Array = column("buffer", "B")

    def link_bytes(self) -> Array:
        """The buffer."""
        return self.bytes


MODES = ("low_latency", "throughput", "all_to_all")
"""How dispatch and combine are sent: by kernels of their own, once per expert or once per node, or by NCCL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routed(Op):
    ranks: Array = column("expert-parallel ranks")
    nodes: Array = column("nodes they are spread over", default=1.0)
    tokens: Array = column("tokens per rank", "tok")
    d_model: Array = column("width of the residual stream")
    top_k: int = column("experts per token")
    experts: int = column("experts in all")
    dtype: str = column("of the payload", default="bf16")
    mode: str = column(
        "low_latency (per expert, direct), throughput (deduplicated per node) or all_to_all (per expert, by a library)",
        default="low_latency",
    )
    groups: int = column("nodes a token may visit under group-limited routing; 0: no limit", default=0)
    load: str = column("expert load, as in moe_ffn", default="uniform")

    def __post_init__(self) -> None:
        """Raise ValueError for a mode that no kernel has."""
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; accepted: {', '.join(MODES)}")

    def token_bytes(self) -> float | Array:
        """Payload of one token: fp8 carries an fp32 scale per 128 elements.

        A kernel of its own adds 16 bytes of routing; a library's all-to-all is told the sizes before.
        """
        element = 1.0 + 4.0 / 128.0 if self.dtype == "fp8" else dtype_bytes(self.dtype)
        return self.d_model * element + (0.0 if self.mode == "all_to_all" else 16.0)

    def link_bytes(self) -> Array:
        """Copies that leave a rank when experts are spread evenly and nothing is deduplicated."""
        return self.tokens * self.top_k * self.token_bytes() * (self.ranks - 1.0) / self.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeDispatch(_Routed):
    """Tokens to the ranks of their experts."""

    op: ClassVar[str] = "moe_dispatch"
    dtype: str = column("of the payload", default="fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeCombine(_Routed):
    """Experts' outputs back to the tokens' ranks."""

    op: ClassVar[str] = "moe_combine"


COLLECTIVES = (Collective, Send, _Routed)
"""Ops that an engine may run with its own communication kernels."""
