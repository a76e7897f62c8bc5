"""The event-driven run of a scenario."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sparsesim.closed_form import Load, pool_phases
from sparsesim.cost.breakdown import Step
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology import Routes, own_topology
from sparsesim.metrics import summarise
from sparsesim.metrics.stats import flat
from sparsesim.run import Run, simulated
from sparsesim.scenario import Scenario, Simulation
from sparsesim.serving import check_effects, serve
from sparsesim.sim.op_detail import Cluster, DetailedSteps
from sparsesim.sim.records import Records
from sparsesim.system import PoolSystem, background, systems, topology_of
from sparsesim.workload import RequestTable, generate

Progress = Callable[[int, int, float], None]
TIMELINE = "timeline.json"
"""File of a run folder: with `detail: op`, every rank's resources during a typical decode step, for ui.perfetto.dev."""
BOUND_REQUESTS = 800
"""Requests that are run again at the low and high step curves; their ratio to the middle carries over."""
BOUNDED = (
    "ttft_s.mean",
    "ttft_s.p99",
    "tpot_s.mean",
    "tpot_s.p99",
    "e2e_s.mean",
    "output_tok_per_s",
    "j_per_output_tok",
)


def simulate(scenario: Scenario, progress: Progress | None = None) -> Run:
    """Simulate a scenario: every replication, and the bounds of its 90 % interval.

    `progress` is called now and then with (requests ended, all requests, simulated seconds). Interrupted from the
    keyboard, the run holds what was simulated so far and is marked partial.

    Raises:
        InputError: something the scenario names is not known.
        DoesNotFitError: the model does not fit its devices.

    """
    pools = systems(scenario)
    records: list[Records] = []
    detailed: DetailedSteps | None = None
    begin = time.perf_counter()
    for replication in range(scenario.simulation.replications):
        requests = generate(scenario.workload, scenario.simulation.seed, replication, scenario.folder)
        if not replication:
            check_effects(scenario, pools, requests)
        if scenario.simulation.detail == "op":
            detailed = detailed or detailed_steps(_only(pools), requests, scenario.simulation)
        records.append(serve(scenario, pools, requests, detailed, progress, replication))
        if records[-1].partial:
            break
    wall_s = time.perf_counter() - begin
    load, running = _load(records[0])
    phases = pool_phases(pools, load, running)
    replicas = mean_replicas(records, pools, scenario.simulation.warm_up)
    run = simulated(scenario, records, background(scenario, pools, phases, replicas), wall_s)
    if detailed is not None:
        run = replace(run, files={TIMELINE: _timeline(detailed, running)})
    return run if run.partial else _with_intervals(run, interval(scenario, pools, phases))


def _only(pools: Mapping[str, PoolSystem]) -> PoolSystem:
    """The one pool of a deployment.

    Raises:
        InputError: there are two.

    """
    if "all" not in pools:
        raise InputError(Problem("op by op runs one pool", path="simulation.detail", hint="detail: step"))
    return pools["all"]


def detailed_steps(system: PoolSystem, requests: RequestTable, asked: Simulation) -> DetailedSteps:
    """Step costs that follow op-by-op simulations of steps with these requests' mean lengths.

    Raises:
        InputError: pipeline stages, a single device, devices that nothing links, or disturbances of what is not there.

    """
    setting = system.setting
    if system.ffn is not None:
        raise InputError(Problem("op by op knows no ffn devices", path="simulation.detail", hint="detail: step"))
    if system.speculation is not None:
        raise InputError(Problem("op by op knows no verify steps", path="simulation.detail", hint="detail: step"))
    if setting.pp > 1 or setting.ranks == 1:
        shown = f"op by op runs one pipeline stage of several ranks, not pp {setting.pp} of {setting.ranks}"
        raise InputError(Problem(shown, path="simulation.detail", hint="pp: 1 with tp or dp above 1, or detail: step"))
    prompt, output = float(requests.prompt_tok.mean()), float(requests.output_tok.mean())
    topology = topology_of(system.pool) or own_topology(system.gpu, setting.ranks)
    disturbed = asked.disturbances
    routes = Routes(disturbed.on(topology.network())) if disturbed.links else topology.routes()
    adds_up = topology.fabric().in_switch_reduction
    cluster = Cluster(routes, setting.gpus_per_node, system.costs.chip.bandwidth_bytes_per_s, adds_up)
    at, overlap = prompt + output / 2, system.pool.overlap
    return DetailedSteps(
        system.steps, cluster, prompt, at, overlap.shared_experts, overlap.two_batch, disturbed, asked.seed
    )


def _timeline(detailed: DetailedSteps, running: float) -> str:
    """The Chrome trace of a decode step of the mean batch."""
    held = math.ceil(running / detailed.steps.setting.dp)
    return json.dumps(detailed.simulated(detailed.batch("decode", held)).timeline.chrome())


def _with_intervals(run: Run, relative: Mapping[str, tuple[float, float]]) -> Run:
    """The run with 90 % intervals around its figures; one of chance that is there already gives way."""
    figures = dict(flat(run.summary))
    found = {
        name: {"low": figures[name] * low, "high": figures[name] * high, "level": 0.9, "source": "kernels and engine"}
        for name, (low, high) in relative.items()
        if name in figures
    }
    return replace(run, summary={**run.summary, "intervals": {**run.summary["intervals"], **found}})


def mean_replicas(
    records: Sequence[Records], pools: Mapping[str, PoolSystem], warm_up_s: float = 0.0
) -> dict[str, float]:
    """Replicas that were on after the warm-up, in the mean, of the pools whose number changes."""
    found = {}
    for name, system in pools.items():
        if system.pool.autoscale is None:
            continue
        on_s, length_s = 0.0, 0.0
        for one in records:
            mine = np.isin(one.replicas["role"], (name, "serve"))
            up, down = (np.asarray(one.replicas[end], float)[mine] for end in ("up_s", "down_s"))
            on_s += float((down - np.maximum(up, warm_up_s)).clip(min=0.0).sum())
            length_s += one.end_s - warm_up_s
        found[name] = on_s / length_s if length_s > 0 else float(system.pool.replicas)
    return found


def _load(records: Records) -> tuple[Load, float]:
    """The load a replica saw and the sequences it ran in the mean while busy."""
    requests, steps = records.requests, records.steps
    decoders = records.replicas["replica"][records.replicas["role"] != "prefill"]
    decodes = np.isin(steps["replica"], decoders)
    seconds = (np.asarray(steps["end_s"], float) - np.asarray(steps["start_s"], float)) * decodes
    running = float(seconds @ np.asarray(steps["decode"], float) / seconds.sum()) if seconds.sum() > 0 else 1.0
    prompt, output = (float(np.mean(np.asarray(requests[name], float))) for name in ("prompt_tok", "output_tok"))
    rate = len(requests["request"]) / max(records.end_s, 1e-9) / len(records.replicas["replica"])
    return Load(rate, prompt, output), max(running, 1.0)


def interval(
    scenario: Scenario, pools: Mapping[str, PoolSystem], phases: Mapping[str, Step]
) -> dict[str, tuple[float, float]]:
    """90 % intervals relative to the figures: the first requests run again at the low and high step curves.

    Errors of kernel classes are shared by all steps, so the whole curve moves; queueing carries it on as it must.
    """
    requests = generate(scenario.workload, scenario.simulation.seed, 0, scenario.folder)
    if len(requests) > BOUND_REQUESTS:
        requests = requests.take(np.arange(BOUND_REQUESTS))
    half = max(one.half_width for one in phases.values())
    factors = (1.0, math.exp(-half), math.exp(half))
    stretched = [{name: system.stretched(f) for name, system in pools.items()} for f in factors]
    figures = [_figures(serve(scenario, pools, requests, steps), scenario) for steps in stretched]
    return {name: _bounds(name, figures) for name in BOUNDED if all(figure.get(name) for figure in figures)}


def _figures(records: Records, scenario: Scenario) -> dict[str, float]:
    return dict(flat(summarise(records, scenario.slo)))


def _bounds(name: str, figures: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    middle, fast, slow = (figure[name] for figure in figures)
    low, high = sorted((fast / middle, slow / middle))
    return min(low, 1.0), max(high, 1.0)
