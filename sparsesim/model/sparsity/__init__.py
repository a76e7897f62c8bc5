"""How sparse the activations of each layer are: a family of distributions."""

from sparsesim.model.sparsity.base import LayerSparsity, Sparsity

__all__ = ["LayerSparsity", "Sparsity"]
