"""How tokens spread over experts: a family of popularities, by layer and drifting in time."""

from sparsesim.model.load.base import ExpertLoad, read_load

__all__ = ["ExpertLoad", "read_load"]
