"""From a run's records to the figures that answer the question."""

from __future__ import annotations

from sparsesim.metrics.attributes import ATTRIBUTES, Attribute
from sparsesim.metrics.summary import summarise

__all__ = ["ATTRIBUTES", "Attribute", "summarise"]
