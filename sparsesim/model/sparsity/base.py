"""What a distribution of activation sparsity tells a model's layers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sparsesim.families import Member

Format = Literal["auto", "dense", "twell", "compact", "ell", "csr", "gemm"]


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """One layer's activations.

    `density`: mean share of active neurons of its FFN, None where the FFN is dense. `projections`: density of the
    inputs of single projections by name (`up`, `down`, `i`, `f`, `g`, `o`).
    """

    density: float | None = None
    format: str = "auto"
    pattern: str = "zipf"
    row_sigma: float = 0.0
    correlation: float = 0.0
    projections: tuple[tuple[str, float], ...] = ()

    def projection(self, name: str) -> float:
        """Share of non-zero inputs of a projection; the down projection sees the active neurons."""
        for projection, density in self.projections:
            if projection == name:
                return density
        return self.density if name == "down" and self.density is not None else 1.0


class Sparsity(Member, family="sparsesim.model.sparsity"):
    """Activation sparsity over the layers of a model."""

    format: Format = Field(
        "auto", description="kernel of the FFN: a sparse format, auto (the fastest), or gemm (zeros are multiplied)"
    )

    @abstractmethod
    def layer(self, index: int, layers: int) -> LayerSparsity:
        """Of layer `index` (from 0) of `layers`."""

    def head_density(self) -> float:
        """Share of non-zero inputs of the LM head."""
        return 1.0
