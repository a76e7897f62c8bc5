"""What is measured: one layer's sizes, and the three ops that its stages are recorded as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsesim.errors import InputError
from sparsesim.work import MoeCombine, MoeDispatch, MoeFfn, Op


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """A layer over `ranks` ranks of one node; `tokens` are those of each rank, weights and payload bf16."""

    ranks: int
    tokens: int
    d_model: int
    d_ff: int
    experts: int
    top_k: int
    load: str = "uniform"
    graph: bool = True
    regime: str = "burst"

    def __post_init__(self) -> None:
        """Raise InputError for experts that the ranks do not divide, or more choices than experts."""
        if self.experts % self.ranks:
            raise InputError(f"layer: {self.experts} experts cannot be dealt evenly to {self.ranks} ranks")
        if not 1 <= self.top_k <= self.experts:
            raise InputError(f"layer: top_k is {self.top_k}, must be between 1 and the {self.experts} experts")

    @property
    def local(self) -> int:
        """Experts a rank."""
        return self.experts // self.ranks

    def ops(self) -> tuple[Op, Op, Op]:
        """Dispatch and combine with the tokens of a rank, the experts with those of the whole group."""
        common: dict[str, Any] = {
            "d_model": float(self.d_model),
            "experts": self.experts,
            "top_k": self.top_k,
            "load": self.load,
            "graph": self.graph,
            "regime": self.regime,
        }
        routed = common | {"ranks": float(self.ranks), "tokens": float(self.tokens), "mode": "all_to_all"}
        whole = float(self.tokens * self.ranks)
        ffn = MoeFfn(tokens=whole, d_ff=float(self.d_ff), ep=self.ranks, **common)
        return MoeDispatch(dtype="bf16", **routed), ffn, MoeCombine(dtype="bf16", **routed)
