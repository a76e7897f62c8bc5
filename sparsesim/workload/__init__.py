"""Requests and when they come: arrivals, lengths, traces, and the table that a simulation consumes."""

from __future__ import annotations

from sparsesim.workload.generate import generate
from sparsesim.workload.kinds.base import Workload
from sparsesim.workload.requests import PrefixBlocks, RequestTable

__all__ = ["PrefixBlocks", "RequestTable", "Workload", "generate"]
