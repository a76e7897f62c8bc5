"""Formats of recorded requests: one kind per file."""

from sparsesim.workload.traces.base import TraceFormat, read_trace

__all__ = ["TraceFormat", "read_trace"]
