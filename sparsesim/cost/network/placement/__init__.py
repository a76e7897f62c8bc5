"""Placement family: which rank holds which expert, and how often."""

from __future__ import annotations

from sparsesim.cost.network.placement.base import Assignment, Placement

__all__ = ["Assignment", "Placement"]
