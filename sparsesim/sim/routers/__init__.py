"""Routers: which replica a request goes to. One kind per module."""

from sparsesim.sim.routers.base import Router

__all__ = ["Router"]
