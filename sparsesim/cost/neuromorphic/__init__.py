"""Event-driven devices: events of a token, closed form, published performance model, bounds."""

from sparsesim.cost.neuromorphic.densities import Density, DensitySet, everywhere, load_densities
from sparsesim.cost.neuromorphic.estimate import NeuromorphicEstimate, neuromorphic_estimate

__all__ = ["Density", "DensitySet", "NeuromorphicEstimate", "everywhere", "load_densities", "neuromorphic_estimate"]
