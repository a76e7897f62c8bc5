"""A scenario's serving: its pools as the simulation sees them, KV on its way between them, and what has no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sparsesim.cost.verify import draft_kv_by_window
from sparsesim.errors import InputError, Problem
from sparsesim.scenario import KvTransfer, Scenario
from sparsesim.sim.fleet import Progress
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.records import Records
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.run import simulate_fleet, simulate_pools
from sparsesim.sim.steps import StepModel
from sparsesim.sim.transfer import SharedLinks, Transfer
from sparsesim.system import PoolSystem, topology_of
from sparsesim.workload import RequestTable

Steps = StepModel | Mapping[str, StepModel] | None
SEEDS = 2**32
"""Seeds of replications are spread over so many."""


def serve(
    scenario: Scenario,
    pools: PoolSystem | Mapping[str, PoolSystem],
    requests: RequestTable,
    steps: Steps = None,
    progress: Progress | None = None,
    replication: int = 0,
) -> Records:
    """Serve a table of requests on the scenario's deployment.

    Args:
        scenario: what acts on the pools: router, faults, autoscaling, admission.
        pools: one, or prefill and decode by name.
        requests: what is asked, and when.
        steps: step costs instead of the pools' own, of the one pool or by name.
        progress: called now and then.
        replication: its faults and accepted drafts are its own.

    """
    named = {"all": pools} if isinstance(pools, PoolSystem) else pools
    deployment = scenario.deployment
    seed = int(np.random.SeedSequence([scenario.simulation.seed, replication]).generate_state(1)[0])
    specs = {
        name: [replica_spec(system, steps.get(name) if isinstance(steps, Mapping) else steps)] * system.pool.replicas
        for name, system in named.items()
    }
    if "all" in named:
        return simulate_fleet(
            requests,
            specs["all"],
            deployment.router,
            named["all"].pool.scheduler,
            progress=progress,
            admission=deployment.admission,
            faults=deployment.faults,
            autoscale=named["all"].pool.autoscale,
            seed=seed,
        )
    prefill, decode = (
        PoolSpec(specs[name], deployment.router, pool.scheduler, pool.autoscale)
        for name, pool in ((name, named[name].pool) for name in ("prefill", "decode"))
    )
    moved = transfer_of(named, deployment.transfer or KvTransfer())
    return simulate_pools(
        requests,
        prefill,
        decode,
        moved,
        progress=progress,
        admission=deployment.admission,
        faults=deployment.faults,
        seed=seed,
    )


def replica_spec(system: PoolSystem, steps: StepModel | None = None) -> ReplicaSpec:
    """A replica as the simulation sees it; a block of KV lies spread over the devices of an attention rank."""
    plan, memory = system.memory, system.pool.memory
    swaps = bool(memory.host) or getattr(system.pool.scheduler, "preemption", None) == "swap"
    cache = {False: "off", True: "pool", "unbounded": "unbounded"}[memory.prefix_cache]
    host_blocks = math.floor(memory.host / (plan.block_bytes * system.setting.tp * system.setting.pp))
    return ReplicaSpec(
        steps=steps or system.steps,
        kv_blocks=plan.kv_blocks,
        max_context=system.model.max_context,
        block_tok=plan.block_tok,
        state_slots=plan.state_slots if plan.state_bytes > 0 else None,
        kv_windows=plan.kv_windows,
        prefix_cache=cache,  # type: ignore[arg-type]
        host_blocks=host_blocks if memory.host else 0,
        swap_s_per_block=plan.block_bytes / host_bandwidth(system) if swaps else None,
    )


def host_bandwidth(system: PoolSystem) -> float:
    """Bytes per second that one device moves to host memory or back.

    Raises:
        InputError: neither the hardware nor the scenario says.

    """
    own, link = system.pool.memory.host_bandwidth, system.gpu.node.host_link
    if own is not None:
        return own
    if link is None:
        text = f"{system.gpu.name} does not say how fast its host link is"
        raise InputError(Problem(text, path=f"{system.place}.memory.host_bandwidth", hint="such as 64 GB/s"))
    return link.value


def transfer_of(pools: Mapping[str, PoolSystem], settings: KvTransfer) -> Transfer:
    """KV between two pools: every replica sends and takes in over all its devices' cards at once.

    Pools that fit one node together use its link, others their network cards; where a topology is named its figures
    hold, and what its spine carries is a trunk that all transfers share.

    Raises:
        InputError: the devices have no network cards and no bandwidth is given.

    """
    prefill, decode = pools["prefill"], pools["decode"]
    ends = [card(system, shares_node(pools), settings) for system in (prefill, decode)]
    speeds = [settings.bandwidth or speed for speed, _ in ends]
    trunk = (
        math.inf if shares_node(pools) else trunk_of(prefill, decode) * min(prefill.most_devices, decode.most_devices)
    )
    sizes = kv_by_window(decode)
    return SharedLinks(
        out_bytes_per_s=speeds[0],
        in_bytes_per_s=speeds[1],
        trunk_bytes_per_s=trunk,
        latency_s=max(late for _, late in ends) if settings.latency is None else settings.latency,
        bytes_per_tok=sizes.pop(math.inf, 0.0),
        windowed=tuple(sizes.items()),
        state_bytes=decode.model.state_bytes(decode.setting.precision),
    )


def kv_by_window(system: PoolSystem) -> dict[float, float]:
    """Bytes per token that a request's KV has, over all layers and ranks and what drafts, by attention window."""
    setting = system.setting
    sizes = system.model.kv_by_window(setting.precision, setting.tp)
    if system.speculation is not None:
        for window, size in draft_kv_by_window(system.model, system.draft, setting).items():
            sizes[window] = sizes.get(window, 0.0) + size
    return {window: setting.tp * size for window, size in sizes.items()}


def shares_node(pools: Mapping[str, PoolSystem]) -> bool:
    """Whether all pools stand on the devices of one node."""
    alike = len({system.gpu.name for system in pools.values()}) == 1
    return alike and all(
        sum(one.most_devices for one in pools.values()) <= one.setting.gpus_per_node for one in pools.values()
    )


def trunk_of(prefill: PoolSystem, decode: PoolSystem) -> float:
    """Bytes per second that the spine between two pools carries for each device of the smaller one."""
    named = topology_of(prefill.pool) or topology_of(decode.pool)
    if named is None:
        return math.inf
    fabric = named.fabric()
    return fabric.nic_bytes_per_s / fabric.gpus_per_nic / fabric.oversubscription


def card(system: PoolSystem, inside: bool, settings: KvTransfer) -> tuple[float, float]:
    """Bytes per second of a replica's cards together, and the latency of one transfer.

    Raises:
        InputError: the devices have no network cards, and the scenario does not say either figure.

    """
    count = system.setting.tp * system.setting.pp  # one attention rank holds a request
    gpu, topology = system.gpu, topology_of(system.pool)
    if topology is not None:
        fabric = topology.fabric()
        if inside:
            return count * fabric.link_bytes_per_s, fabric.hop_s
        return count * fabric.nic_bytes_per_s / fabric.gpus_per_nic, fabric.rdma_s
    if inside and gpu.link is not None:
        return count * gpu.link.bandwidth.value, gpu.link.latency.value
    if gpu.nic is not None:
        return count * gpu.nic.bandwidth.value * gpu.node.nics.value / gpu.node.gpus.value, gpu.nic.latency.value
    if settings.bandwidth is not None and settings.latency is not None:
        return settings.bandwidth, settings.latency
    name, hint = ("bandwidth", "such as 50 GB/s") if settings.bandwidth is None else ("latency", "such as 10 us")
    text = f"{gpu.name} has no network card to send KV over"
    raise InputError(Problem(text, path=f"deployment.transfer.{name}", hint=hint))


def check_effects(scenario: Scenario, pools: Mapping[str, PoolSystem], requests: RequestTable) -> None:
    """Refuse options that could not change anything, all at once.

    Raises:
        InputError: each option with its place.

    """
    problems = [problem for system in pools.values() for problem in _idle_memory(system, requests)]
    present = set(np.unique(requests.priority).tolist())
    absent = sorted(set(scenario.slo.classes) - present)
    if absent:
        text = f"no request has priority {absent[0]}"
        hint = "the workload's priorities: " + ", ".join(map(str, sorted(present)))
        problems.append(Problem(text, path=f"slo.classes.{absent[0]}", hint=hint))
    admission = scenario.deployment.admission
    if admission is not None and len(admission.max_outstanding) > 1 and present == {0}:
        text = f"{len(admission.max_outstanding)} limits for classes, but every request has priority 0"
        problems.append(Problem(text, path="deployment.admission.max_outstanding", hint="one limit, or priorities"))
    for system in pools.values():
        if getattr(system.pool.scheduler, "policy", None) == "priority" and len(present) < 2:
            text = "every request has the same priority"
            problems.append(Problem(text, path=f"{system.place}.scheduler.policy", hint="fcfs, or priorities"))
    if problems:
        with scenario.placing():
            raise InputError(problems)


def _idle_memory(system: PoolSystem, requests: RequestTable) -> list[Problem]:
    """Keys of a pool's memory without effect."""
    memory, at = system.pool.memory, system.place
    swaps = getattr(system.pool.scheduler, "preemption", None) == "swap"
    problems = []
    if memory.prefix_cache and requests.prefix_blocks is None:
        hint = "a trace with hash_ids, such as mooncake_fast25_synthetic.jsonl"
        problems.append(Problem("the workload names no prefix blocks", path=f"{at}.memory.prefix_cache", hint=hint))
    if memory.prefix_cache and system.name == "decode":
        text = "decode replicas compute no prompts"
        problems.append(Problem(text, path=f"{at}.memory.prefix_cache", hint="on the prefill pool"))
    if memory.prefix_cache and system.pool.scheduler.kind == "static":
        text = "static batching keeps no prefixes"
        problems.append(Problem(text, path=f"{at}.memory.prefix_cache", hint="scheduler continuous or sglang"))
    if memory.host_bandwidth is not None and not memory.host and not swaps:
        text = "nothing goes to host memory"
        problems.append(Problem(text, path=f"{at}.memory.host_bandwidth", hint="with host, or preemption: swap"))
    if system.name == "prefill" and swaps:
        text = "prefill replicas do not decode: there is nothing to swap"
        problems.append(Problem(text, path=f"{at}.scheduler.preemption", hint="recompute"))
    return problems
