"""What a deployment is asked to do: one kind of workload per file."""

from sparsesim.workload.kinds.base import Workload

__all__ = ["Workload"]
