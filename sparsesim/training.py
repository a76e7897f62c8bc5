"""A training step in closed form: time and joules of a micro-batch with its share of the optimizer, and peak memory."""

from __future__ import annotations

import math
from typing import Any

from sparsesim.cost.accumulate import COMPONENTS, Overhead, finished_one, price, totals
from sparsesim.cost.breakdown import Step, bound_shares, half_width
from sparsesim.errors import InputError, Problem
from sparsesim.model.training import Recipe, TrainingMemory, training_memory, training_tasks
from sparsesim.run import Run, completed
from sparsesim.scenario import Scenario
from sparsesim.system import PoolSystem, background
from sparsesim.workload.kinds.training import Training


def estimate_training(scenario: Scenario, system: PoolSystem, workload: Training) -> Run:
    """The step of one micro-batch, op by op, and what the device holds at its peak.

    Raises:
        InputError: saved twell_hybrid without an activation sparsity, or kernels whose backward is not known.

    """
    if workload.saved == "twell_hybrid" and scenario.sparsity is None:
        raise InputError(Problem("twell_hybrid needs an activation sparsity", path="sparsity"))
    recipe = Recipe(workload.sequence, workload.micro_batch, workload.global_batch, workload.optimizer, workload.saved)
    one = _step(system, recipe)
    memory = training_memory(system.model, system.setting, recipe)
    energy, replicas = sum(one.energy_j.values()), system.pool.replicas
    bounds = [one.time_s * math.exp(sign * one.half_width) for sign in (-1, 1)]
    summary: dict[str, Any] = {
        "step_s": one.time_s,
        "tok_per_s": recipe.tokens / one.time_s * replicas,
        "duration_s": one.time_s,
        "energy_j": energy * replicas,
        "energy_by_component_j": {name: joules * replicas for name, joules in one.energy_j.items()},
        "j_per_tok": energy / recipe.tokens,
        "power_w": energy / one.time_s * replicas,
        "peak_memory_bytes": memory.peak_bytes,
        "memory_by_use_bytes": _by_use(memory),
        "scope": "gpu",
        "intervals": {"step_s": {"low": bounds[0], "high": bounds[1], "level": 0.9, "source": "kernel classes"}},
    }
    return completed("estimate", scenario, summary, {}, background(scenario, {"all": system}, {"training": one}))


def _step(system: PoolSystem, recipe: Recipe) -> Step:
    steps = system.steps
    priced = tuple(price(training_tasks(system.model, system.setting, recipe), system.costs))
    overhead = Overhead(system.engine.host_per_step.value, 0.0, 0.0, graph=False)
    values = finished_one(totals(priced).tolist(), overhead, system.engine, system.costs.power)
    joules = dict(zip(COMPONENTS, (v * system.pool.devices for v in values[1:]), strict=True))
    return Step(
        "training", values[0], joules, priced, half_width(steps, priced, values[0]), bound_shares(steps, priced)
    )


def _by_use(memory: TrainingMemory) -> dict[str, float]:
    return {
        "weights": memory.weight_bytes,
        "gradients": memory.gradient_bytes,
        "optimizer": memory.optimizer_bytes,
        "saved": memory.saved_bytes,
        "momentary": memory.momentary_bytes,
    }
