"""From tasks, a cost function and a cluster to programs for `sim.op_detail`: a model's step, op by op."""

from __future__ import annotations

from sparsesim.cost.network.detail.exchanges import Exchanges
from sparsesim.cost.network.detail.step import Cluster, StepDetail, layer_tasks, simulate_step

__all__ = ["Cluster", "Exchanges", "StepDetail", "layer_tasks", "simulate_step"]
