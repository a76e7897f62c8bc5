"""The closed form of a scenario on chips that hold their weights: a fixed batch in one phase.

`events` are sparsesim's own time and energy (`cost.neuromorphic`); beside them, under `published` in the summary, what
the published performance model makes of the same densities, with its energy at constant power. Array chips
(NorthPole) answer with bounds. Throughput is that of the steady state; `step_s` counts the filling of the pipeline.
With `simulation.detail: op` the messages are simulated too, one by one in bundles, and stand under `simulated`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsesim.cost.neuromorphic.bounds import Bounds, pipeline_bounds
from sparsesim.cost.neuromorphic.densities import DensitySet, Phase, density_names, load_densities
from sparsesim.cost.neuromorphic.estimate import Method, NeuromorphicEstimate, neuromorphic_estimate
from sparsesim.cost.neuromorphic.machine import machine
from sparsesim.cost.neuromorphic.mapping import map_stages
from sparsesim.cost.neuromorphic.stages import stages_of
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.model.arch import Model
from sparsesim.run import Background, Run, completed
from sparsesim.scenario import Pool, Scenario
from sparsesim.sim.neuromorphic import simulate_neuromorphic
from sparsesim.sim.records import Columns
from sparsesim.system import model_of
from sparsesim.workload.kinds.static import Static

_PHASE: dict[str, Phase] = {"decode": "generate", "prefill": "prefill"}
_BUNDLE = 64.0
"""Messages that move together: within 3 % of single ones on the 370M model."""
_DRAWN_TOKENS = 2
"""Tokens simulated with drawn activity: the maximum over 24 layers varies little between tokens."""
_NO_MEANING = ("tp", "dp", "ep", "pp", "topology", "placement", "scheduler", "memory", "engine", "ffn", "autoscale")


def device_of(scenario: Scenario) -> Neuromorphic | None:
    """The chips a scenario runs on, in the number it asks for; none where it runs on GPUs."""
    pools = scenario.deployment.by_name()
    hardware = pools["all"].hardware if set(pools) == {"all"} else None
    device = load_device(hardware.name) if hardware else None
    if not isinstance(device, Neuromorphic) or hardware is None:
        return None
    return device.with_chips(hardware.chips) if hardware.chips is not None else device


def estimate_event_driven(scenario: Scenario, device: Neuromorphic) -> Run:
    """A fixed batch on such chips.

    Raises:
        InputError: the scenario asks for what they do not have, or names no densities.
        DoesNotFitError: the model needs more chips.

    """
    pool = scenario.deployment.by_name()["all"]
    workload = _checked(scenario, pool, device)
    model = model_of(scenario)
    if scenario.precision is not None:
        model = model.model_copy(update={"precision": scenario.precision})
    if device.array is not None:
        return _array(scenario, pool, model, device, workload)
    densities = load_densities(str(scenario.densities))
    found, paper = (_estimate(model, device, workload, densities.name, method) for method in ("events", "published"))
    summary = _summary(found, paper, workload, pool.replicas)
    if scenario.simulation.detail == "op":
        summary["simulated"] = _simulated(model, device, workload, densities, scenario.simulation.seed)
    unmeasured = () if device.fit else (f"{device.name}: event table alone, no system with a language model measured",)
    background = Background(
        provenance={"device": device.calibration, "densities": densities.source, "kind": found.kind},
        assumptions=(found.why, "the LM head is not on the chips", *unmeasured),
        devices=found.chips * pool.replicas,
    )
    return completed("estimate", scenario, summary, {"layers": _layers(found)}, background)


def _estimate(
    model: Model, device: Neuromorphic, workload: Static, densities: str, method: Method
) -> NeuromorphicEstimate:
    return neuromorphic_estimate(
        model,
        device,
        _PHASE[workload.phase],
        load_densities(densities),
        length_tok=round(workload.context),
        batch=workload.batch,
        method=method,
    )


def _summary(
    found: NeuromorphicEstimate, paper: NeuromorphicEstimate, workload: Static, replicas: int
) -> dict[str, Any]:
    decode = workload.phase == "decode"
    tokens = 1 if decode else found.length_tok
    step_s = found.time_per_token_s if decode else found.total_s
    energy = {name: joules * tokens for name, joules in found.energy_j.items()}
    energy["static"] *= step_s / (tokens * found.time_per_token_s)
    return {
        "step_s": step_s,
        "tok_per_s": found.tok_per_s * replicas,
        "duration_s": step_s,
        "output_tok_per_s": replicas / step_s,
        "energy_j": sum(energy.values()) * replicas,
        "energy_by_component_j": {name: joules * replicas for name, joules in energy.items()},
        "j_per_tok": found.j_per_token,
        "power_w": found.power_w * replicas,
        "scope": "chips",
        "chips": found.chips,
        "cores": found.cores,
        "why": found.why,
        "mac_ratio": found.mac_ratio,
        "speed_up": found.speed_up,
        "published": {
            "tok_per_s": paper.tok_per_s * replicas,
            "speed_up": paper.speed_up,
            "mac_ratio": paper.mac_ratio,
            "j_per_tok": paper.j_per_token,
            "constant_power_j_per_tok": paper.constant_power_j,
        },
    }


def _simulated(
    model: Model, device: Neuromorphic, workload: Static, densities: DensitySet, seed: int
) -> dict[str, Any]:
    """A few tokens through queues: with the mean activity, and with activity drawn for every token."""
    m, phase = machine(device), _PHASE[workload.phase]
    mapping = map_stages(stages_of(model, densities, phase), m)
    even = simulate_neuromorphic(mapping, m, phase, bundle=_BUNDLE)
    drawn = simulate_neuromorphic(mapping, m, phase, tokens=_DRAWN_TOKENS, bundle=_BUNDLE, seed=seed)
    return {
        "tok_per_s": 1.0 / even.interval_s,
        "tok_per_s_drawn": 1.0 / drawn.interval_s,
        "longest_queue": max(step.longest_queue for step in even.steps),
        "busiest_link_s": max(max(step.links_s.values(), default=0.0) for step in even.steps),
        "messages": sum(step.messages for step in even.steps),
    }


def _layers(found: NeuromorphicEstimate) -> Columns:
    return {
        "layer": np.array([s.name for s in found.stages]),
        "first_chip": np.array([s.first_chip for s in found.stages]),
        "cores": np.array([s.cores for s in found.stages]),
        "core_s": np.array([s.core_s for s in found.stages]),
        "mean_core_s": np.array([s.mean_core_s for s in found.stages]),
        "mesh_s": np.array([s.mesh_s for s in found.stages]),
        "link_s": np.array([s.link_s for s in found.stages]),
        "barrier_s": np.array([s.barrier_s for s in found.stages]),
        "bound": np.array([s.bound for s in found.stages]),
    }


def _array(scenario: Scenario, pool: Pool, model: Model, device: Neuromorphic, workload: Static) -> Run:
    precision = model.precision
    each = math.ceil(model.layer_count / max(device.chips.value - 1, 1))
    bounds = pipeline_bounds(
        model,
        device,
        precision.weights,
        kv_dtype=precision.kv,
        head_chips=device.chips.value - math.ceil(model.layer_count / each),
        context_tok=workload.context,
    )
    background = Background(
        provenance={"device": device.calibration, "kind": "bound"},
        assumptions=("upper bounds of throughput and power, a lower one of latency: nothing is fitted",),
        devices=device.chips.value * pool.replicas,
    )
    return completed("estimate", scenario, _bounded(bounds, pool.replicas), {}, background)


def _bounded(bounds: Bounds, replicas: int) -> dict[str, Any]:
    energy = bounds.power_w / bounds.tok_per_s
    return {
        "step_s": bounds.latency_s,
        "tok_per_s": bounds.tok_per_s * replicas,
        "duration_s": bounds.latency_s,
        "output_tok_per_s": bounds.tok_per_s * replicas,
        "energy_j": energy * bounds.latency_s * bounds.tok_per_s * replicas,
        "energy_by_component_j": {"all": energy * bounds.latency_s * bounds.tok_per_s * replicas},
        "j_per_tok": energy,
        "power_w": bounds.power_w * replicas,
        "scope": "chips",
        "chips": bounds.chips,
        "bounded_by": bounds.bound,
        "max_context_tok": bounds.max_context_tok,
        "is_bound": True,
    }


def _checked(scenario: Scenario, pool: Pool, device: Neuromorphic) -> Static:
    """The workload.

    Raises:
        InputError: every key that these chips cannot answer to.

    """
    workload = scenario.workload
    problems = [*_misplaced(scenario, pool, device), *_density_faults(scenario, device)]
    if not isinstance(workload, Static):
        hint = "kind static, with phase decode or prefill and batch 1; GPUs serve requests"
        problems.append(Problem(f"{device.name} is costed on a fixed batch only", "workload.kind", hint=hint))
    elif device.array is not None and (workload.phase != "decode" or workload.batch > device.sequences.value):
        hint = f"phase decode, batch 1 to {device.sequences.value}"
        problems.append(Problem(f"{device.name} has bounds for decoding only", "workload", hint=hint))
    if problems or not isinstance(workload, Static):
        raise InputError(problems)
    return workload


def _misplaced(scenario: Scenario, pool: Pool, device: Neuromorphic) -> list[Problem]:
    """Keys that mean something on a GPU only."""
    faults = {
        f"deployment.{name}": "layers are laid over its chips by memory"
        for name in _NO_MEANING
        if name in scenario.deployment.model_fields_set
        and getattr(pool, name) != Pool.model_fields[name].get_default(call_default_factory=True)
    }
    faults |= {"power.cap": "it has no power cap"} if scenario.power.cap is not None else {}
    faults |= {"deployment.hardware.mode": "it has no power modes"} if pool.hardware.mode is not None else {}
    faults |= {"sparsity": "name densities by projection instead"} if scenario.sparsity is not None else {}
    faults |= {"expert_load": "it runs no experts"} if "expert_load" in scenario.model_fields_set else {}
    return [Problem(f"has no meaning on {device.name}", path, hint=hint) for path, hint in faults.items()]


def _density_faults(scenario: Scenario, device: Neuromorphic) -> list[Problem]:
    """Event-driven chips need densities, arrays have no use for them."""
    if device.array is not None:
        hint = "leave them out"
        wrong = scenario.densities is not None
        return [Problem(f"{device.name} multiplies zeros as any other value", "densities", hint=hint)] if wrong else []
    if scenario.densities is not None:
        return []
    own = [name for name in density_names() if load_densities(name).model == scenario.model]
    hint = f"name a set: {', '.join(own)}" if own else "add a set to scenarios/densities: none is for this model"
    return [Problem("missing: an event-driven chip's time depends on them", "densities", hint=hint)]
