"""`detail: op`: every rank's ops as events on its compute, memory and link resources."""

from __future__ import annotations

from sparsesim.sim.op_detail.engine import Transfer, simulate_ops
from sparsesim.sim.op_detail.exchanges import Exchanges
from sparsesim.sim.op_detail.noise import with_jitter, with_slow_rank
from sparsesim.sim.op_detail.program import (
    Exchange,
    Local,
    Program,
    expected_s,
    layered,
    program,
    shared_during_dispatch,
)
from sparsesim.sim.op_detail.step import Cluster, StepDetail, layer_tasks, simulate_step
from sparsesim.sim.op_detail.steps import DetailedSteps
from sparsesim.sim.op_detail.timeline import Timeline

__all__ = [
    "Cluster",
    "DetailedSteps",
    "Exchange",
    "Exchanges",
    "Local",
    "Program",
    "StepDetail",
    "Timeline",
    "Transfer",
    "expected_s",
    "layer_tasks",
    "layered",
    "program",
    "shared_during_dispatch",
    "simulate_ops",
    "simulate_step",
    "with_jitter",
    "with_slow_rank",
]
