"""What a distribution of activation sparsity tells a model's layers, and what follows from it.

A member gives every layer a mean share of active neurons and the shape of the pattern around that mean; `law` makes it
the `laws.ActivationLaw` that kernels are tried with, from which expectation, quantiles, overflow, union and reuse come.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.families import Member

Format = Literal["auto", "dense", "twell", "compact", "ell", "csr", "gemm", "threshold"]
Pattern = Literal["zipf", "independent"]


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """One layer's activations.

    `density`: mean share of active neurons of its FFN, None where the FFN is dense. `row_sigma`: standard deviation of
    the logarithm of a token's own mean. `correlation`: chance that a neuron keeps its state to the next token beyond
    coincidence. `projections`: density of the inputs of single projections by name (`up`, `down`, `i`, `f`, `g`, `o`).
    """

    density: float | None = None
    format: str = "auto"
    pattern: str = "zipf"
    row_sigma: float = 0.0
    correlation: float = 0.0
    dead_share: float = laws.DEAD_SHARE
    projections: tuple[tuple[str, float], ...] = ()

    def projection(self, name: str) -> float:
        """Share of non-zero inputs of a projection; the down projection sees the active neurons."""
        for projection, density in self.projections:
            if projection == name:
                return density
        return self.density if name == "down" and self.density is not None else 1.0

    def law(self, neurons: int) -> laws.ActivationLaw:
        """Which of `neurons` are active, token by token.

        Raises:
            InputError: the living neurons cannot carry so high a density, or the layer is dense.

        """
        if self.density is None:
            raise InputError(Problem("a layer without a density of its FFN follows no law"))
        mean = self.density * neurons
        try:
            if self.pattern == "independent":
                frequency = laws.uniform_frequencies(neurons, mean)
            else:
                frequency = laws.zipf_frequencies(neurons, mean, dead_share=self.dead_share)
        except ValueError as error:
            raise InputError(Problem(str(error))) from None
        return laws.ActivationLaw(frequency, self.row_sigma, self.correlation)


class Sparsity(Member, family="sparsesim.model.sparsity"):
    """Activation sparsity over the layers of a model."""

    format: Format = Field(
        "auto",
        description="kernel of the FFN: a sparse format, auto (the fastest), gemm (zeros are multiplied), or threshold"
        " (products skip the weight columns of inputs that are zero)",
    )
    formats: tuple[Format, ...] = Field((), description="one for each layer, instead of format")
    pattern: Pattern = Field("zipf", description="how often each neuron is active: by rank^-0.9, or all alike")

    @abstractmethod
    def shape(self, index: int, layers: int) -> LayerSparsity:
        """Of layer `index` (from 0) of `layers`, its format aside."""

    def layer(self, index: int, layers: int) -> LayerSparsity:
        """Of layer `index` (from 0) of `layers`.

        Raises:
            InputError: formats are given for another number of layers.

        """
        if self.formats and len(self.formats) != layers:
            raise InputError(Problem(f"{len(self.formats)} formats for {layers} layers", "formats"))
        own = self.shape(index, layers)
        chosen = self.formats[index] if self.formats else self.format
        return LayerSparsity(
            own.density, chosen, self.pattern, own.row_sigma, own.correlation, own.dead_share, own.projections
        )

    def head_density(self) -> float:
        """Share of non-zero inputs of the LM head."""
        return 1.0

    def expected_nnz(self, neurons: int, index: int = 0, layers: int = 1) -> float:
        """Mean active neurons of a token in a layer."""
        return laws.expected_nnz(self.layer(index, layers).law(neurons))

    def quantile_nnz(self, quantile: float, neurons: int, index: int = 0, layers: int = 1) -> int:
        """Active neurons that a share `quantile` of tokens stays at or below."""
        return laws.nnz_quantile(laws.row_nnz_distribution(self.layer(index, layers).law(neurons)), quantile)

    def overflow(self, neurons: int, tile: int, capacity: int, index: int = 0, layers: int = 1) -> float:
        """Chance that a token has more than `capacity` active neurons in some tile of `tile`."""
        return laws.overflow_probability(self.layer(index, layers).law(neurons), tile, capacity)

    def union(self, neurons: int, tokens: int, index: int = 0, layers: int = 1) -> float:
        """Mean neurons active for at least one of `tokens` consecutive tokens."""
        return laws.expected_union(self.layer(index, layers).law(neurons), tokens)

    def reuse(self, neurons: int, tokens: int, index: int = 0, layers: int = 1) -> float:
        """Times a gathered weight row serves in a block of `tokens`: active neurons over their union."""
        law = self.layer(index, layers).law(neurons)
        together = laws.expected_union(law, tokens)
        return tokens * float(law.frequency.sum()) / together if together > 0 else 1.0
