"""When requests arrive: one kind per file."""

from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit

__all__ = ["Arrivals", "Arrived", "Limit"]
