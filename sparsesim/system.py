"""What a scenario stands for: each pool's model, layout, costs and memory, ready to be estimated or simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.cost.breakdown import Step
from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.cost.memory import MemoryPlan, check_experts_fit, check_fits, plan_memory
from sparsesim.cost.network.exchange import Exchange, link_between, visits_of
from sparsesim.cost.network.placed import PlacedCosts, deployed_costs, redundant_slots
from sparsesim.cost.network.placement import Placement
from sparsesim.cost.network.two_batch import TwoBatchSteps
from sparsesim.cost.power import fitted_figures
from sparsesim.cost.split import FfnGroup, SplitSteps
from sparsesim.cost.step import ReplicaSteps
from sparsesim.cost.tables import StepTables
from sparsesim.cost.verify import VerifyTables, draft_bytes, draft_kv_share
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.engine import Engine, load_engine
from sparsesim.hardware.figure import Figure
from sparsesim.hardware.figures import figures
from sparsesim.hardware.profile import load_device
from sparsesim.hardware.topology import Topology, load_topology
from sparsesim.metrics.ops import ops_columns
from sparsesim.model.arch import Model
from sparsesim.model.blocks.moe import Moe
from sparsesim.model.load import ExpertLoad
from sparsesim.model.load.empirical import Empirical
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model
from sparsesim.run import Background
from sparsesim.scenario import FfnDevices, Hardware, Pool, Scenario, place
from sparsesim.sim.speculation import Speculation


@dataclass(frozen=True)
class PoolSystem:
    """One pool of equal replicas."""

    name: str
    pool: Pool
    model: Model
    gpu: Gpu
    engine: Engine
    setting: Setting
    costs: CostModel
    ffn: FfnGroup | None = None

    @property
    def place(self) -> str:
        """The path of the pool's keys in a scenario."""
        return place(self.name)

    @cached_property
    def steps(self) -> ReplicaSteps:
        """Step costs of a replica."""
        law = self.speculation
        tables = StepTables(self.model, self.setting, self.costs)
        if self.ffn is not None:
            return SplitSteps(tables, self.engine, self.setting.ranks, ffn=self.ffn)
        if law is not None:
            tables = VerifyTables(self.model, self.setting, self.costs, draft_tok=law.draft_tok, draft=self.draft)
        kind = TwoBatchSteps if self.pool.overlap.two_batch else ReplicaSteps
        return kind(tables, self.engine, self.pool.devices)

    @property
    def speculation(self) -> Speculation | None:
        """The draft before every step, if any."""
        return getattr(self.pool.scheduler, "speculation", None)

    @cached_property
    def draft(self) -> Model | None:
        """The draft model; None where the model drafts itself."""
        law = self.speculation
        return None if law is None or law.draft == "mtp" else load_model(law.draft)

    def check_speculation(self) -> None:
        """Refuse speculation that this model or layout cannot do.

        Raises:
            InputError: nothing decodes, no modules to draft with, a state that cannot be taken back, or a batch run
                as halves.

        """
        law = self.speculation
        if law is None:
            return
        text = ""
        if self.name == "prefill":
            text = "prefill replicas do not decode: there is nothing to draft"
        elif law.draft == "mtp" and not self.model.mtp_layers:
            text = f"{self.model.name} has no multi-token-prediction modules: name a draft model"
        elif self.model.state_bytes(self.setting.precision) > 0:
            text = f"{self.model.name} has a state, and verify steps of those are not modelled"
        elif self.pool.overlap.two_batch:
            text = "two-batch overlap of verify steps is not modelled"
        if text:
            raise InputError(Problem(text, path=f"{self.place}.scheduler.speculation"))

    def stretched(self, factor: float) -> ReplicaSteps:
        """Step costs with kernel times scaled: the bounds of an interval."""
        return replace(self.steps, stretch=factor, _curves={})

    @cached_property
    def memory(self) -> MemoryPlan:
        """Weights, cache and states of a replica.

        Raises:
            DoesNotFitError: with the bytes, and the smallest change that would fit.

        """
        settings, speculates = self.pool.memory, self.speculation is not None
        drafts = draft_bytes(self.model, self.draft, self.setting) if speculates else 0.0
        plan = plan_memory(
            self.model,
            self.setting,
            self.costs.chip.capacity_bytes,
            utilisation=settings.utilisation,
            reserve_bytes=self.engine.reserve.value + drafts,
            block_tok=round(settings.block),
            max_running=self.max_running,
            kv_blocks=settings.kv_blocks,
        )
        if speculates:
            block = 1.0 + draft_kv_share(self.model, self.draft, self.setting)
            blocks = math.floor(plan.kv_blocks / block) if settings.kv_blocks is None else plan.kv_blocks
            plan = replace(plan, kv_blocks=blocks, block_bytes=plan.block_bytes * block)
        check_fits(plan, self.model, self.setting, self.gpu.name)
        _ = self.expert_bytes
        return plan

    @cached_property
    def expert_bytes(self) -> float:
        """Weights on a device that computes experts alone; 0 where there is none.

        Raises:
            DoesNotFitError: with the bytes, and the number of devices that would do.

        """
        ffn = self.ffn
        if ffn is None:
            return 0.0
        capacity, share = ffn.costs.chip.capacity_bytes, self.pool.memory.utilisation
        reserve = self.engine.reserve.value
        return check_experts_fit(self.model, ffn.setting, capacity, share, reserve, ffn.costs.gpu.name)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every kind of device of a replica."""
        ffn = self.ffn
        return (self.gpu,) if ffn is None or ffn.costs.gpu == self.gpu else (self.gpu, ffn.costs.gpu)

    @property
    def host_w(self) -> float:
        """Power of host and fans for the devices of a replica."""
        own = (self.pool.devices - (self.ffn.devices if self.ffn else 0)) * self.gpu.node.share.value
        return own + (self.ffn.devices * self.ffn.costs.gpu.node.share.value if self.ffn else 0.0)

    @property
    def max_running(self) -> int:
        """Sequences a replica runs at most."""
        return int(getattr(self.pool.scheduler, "max_running", 0) or getattr(self.pool.scheduler, "batch", 256))

    @property
    def devices(self) -> int:
        """Of all replicas, at the start where they come and go."""
        return self.pool.devices * self.pool.replicas

    @property
    def most_devices(self) -> int:
        """Of all replicas there may be at a time."""
        return self.pool.devices * self.pool.most_replicas


def systems(scenario: Scenario) -> dict[str, PoolSystem]:
    """Every pool of a scenario.

    Raises:
        InputError: what it names is not known, or does not go together; with the place in the scenario's file.

    """
    with scenario.placing():
        model = model_of(scenario)
        return {name: _system(name, pool, model, scenario) for name, pool in scenario.deployment.by_name().items()}


def model_of(scenario: Scenario) -> Model:
    """The scenario's model, a path taken from the scenario's folder."""
    beside = scenario.folder / scenario.model
    return load_model(beside if Path(scenario.model).suffix and beside.is_file() else scenario.model)


def _system(name: str, pool: Pool, model: Model, scenario: Scenario) -> PoolSystem:
    gpu = gpu_of(pool.hardware)
    engine = load_engine(pool.engine)
    cap = _cap(scenario, gpu)
    topology, load = topology_of(pool), load_of(scenario)
    placement = Placement.resolve("contiguous") if pool.ffn else pool.placement
    setting = Setting(
        tp=pool.tp,
        dp=pool.dp,
        ep=pool.ep,
        pp=pool.pp,
        gpus_per_node=topology.fabric().gpus_per_node if topology else gpu.node.gpus.value,
        precision=scenario.precision or model.precision,
        expert_load=load.word(),
        sparsity=scenario.sparsity,
        fused=engine.fused,
        redundant=redundant_slots(model, placement, pool.ep),
        experts_apart=pool.ffn is not None,
    )
    if pool.overlap.two_batch and setting.ranks == 1:
        why = "one rank has no communication to hide behind the other half"
        raise InputError(Problem(why, path="deployment.overlap.two_batch", hint="tp or dp above 1"))
    shared = pool.overlap.shared_experts
    costs = deployed_costs(cost_model(gpu, cap), model, setting, topology, placement, load, shared)
    model.device_weight_bytes(setting)  # raises where heads, widths or layers cannot be split
    system = PoolSystem(name, pool, model, gpu, engine, setting, costs)
    if pool.ffn is not None:
        system = replace(system, ffn=_ffn_group(system, pool.ffn, scenario))
    system.check_speculation()
    return system


def _ffn_group(system: PoolSystem, asked: FfnDevices, scenario: Scenario) -> FfnGroup:
    """The devices of the experts, and the exchanges with those of the attention.

    Raises:
        InputError: there are no experts, they do not fill the devices, or nothing could run them.

    """
    model, at = system.model, f"{system.place}.ffn"
    blocks = {block for block, _ in model.blocks if isinstance(block, Moe)}
    if len({(one.experts, one.working_top_k) for one in blocks}) != 1:
        why = "layers of different experts are not modelled" if blocks else "has no routed experts"
        raise InputError(Problem(f"{model.name}: {why}", path=at, hint="leave ffn out"))
    if scenario.workload.kind == "training":
        raise InputError(Problem("training steps of split replicas are not modelled", path=at, hint="leave ffn out"))
    gpu = gpu_of(asked.hardware, f"{at}.hardware") if asked.hardware else system.gpu
    placement = system.pool.placement
    own = replace(
        system.setting,
        tp=asked.devices,
        dp=1,
        ep=asked.ranks,
        gpus_per_node=gpu.node.gpus.value,
        experts_apart=False,
        redundant=redundant_slots(model, placement, asked.ranks),
    )
    costs = deployed_costs(cost_model(gpu, _cap(scenario, gpu)), model, own, None, placement, load_of(scenario))
    with _below(at):
        link = link_between(system.gpu, gpu, (system.setting.ranks, asked.devices), asked.bandwidth, asked.latency)
    visited, busiest = visits_of(costs.routed if isinstance(costs, PlacedCosts) else (), asked.devices)
    there, back = (
        Exchange(op, system.setting.ranks, visited, busiest, link)
        for op in next(iter(blocks)).exchanges(model.d_model, system.setting)
    )
    return FfnGroup(model, own, costs, asked.micro_batches, there, back)


@contextmanager
def _below(path: str) -> Iterator[None]:
    """Problems raised inside have a path below this one."""
    try:
        yield
    except InputError as error:
        raise InputError([replace(problem, path=f"{path}.{problem.path}") for problem in error.problems]) from None


def _cap(scenario: Scenario, gpu: Gpu) -> float | None:
    """The power cap that was asked for: a device cannot draw more than its own, nor work on less than its idle."""
    cap, own, idle = scenario.power.cap, gpu.power.cap.value, gpu.power.active_idle.value
    if cap is not None and not idle < cap <= own:
        hint = f"above {idle:g} W, its power with clocks up and nothing to do, up to its own cap of {own:g} W"
        raise InputError(Problem(f"{gpu.name} does not work at {cap:g} W", path="power.cap", hint=hint))
    return cap


def gpu_of(hardware: Hardware, path: str = "deployment.hardware") -> Gpu:
    """The GPU profile, in its mode.

    Raises:
        InputError: unknown, or not a GPU.

    """
    device = load_device(hardware.name)
    if not isinstance(device, Gpu):
        raise InputError(Problem(f"{device.name} is {device.kind}: serving runs on GPUs", path=path))
    if hardware.chips is not None:
        hint = "replicas and tp say how many GPUs there are"
        raise InputError(Problem(f"{device.name} is not counted in chips", path=f"{path}.chips", hint=hint))
    return device.in_mode(hardware.mode) if hardware.mode else device


def topology_of(pool: Pool) -> Topology | None:
    """The pool's topology; none: the hardware's own node."""
    return load_topology(pool.topology) if isinstance(pool.topology, str) else pool.topology


def load_of(scenario: Scenario) -> ExpertLoad:
    """The scenario's expert load, the path of a routing log taken from the scenario's folder."""
    load = scenario.expert_load
    if isinstance(load, Empirical) and load.file is not None and (scenario.folder / load.file).is_file():
        return load.model_copy(update={"file": scenario.folder / load.file})
    return load


def single_pool(scenario: Scenario) -> PoolSystem:
    """The one pool of a scenario without disaggregation.

    Raises:
        InputError: it has pools of prefill and decode.

    """
    pools = systems(scenario)
    if set(pools) != {"all"}:
        text = "prefill and decode pools hand requests on: this takes one pool"
        raise InputError(Problem(text, path="deployment.pools", hint="deployment.hardware, or a serving workload"))
    return pools["all"]


def background(
    scenario: Scenario,
    pools: Mapping[str, PoolSystem],
    phases: Mapping[str, Step],
    replicas: Mapping[str, float] | None = None,
) -> Background:
    """What a run of these pools rests on; `replicas` of pools whose number changes, in the mean."""
    tables = [
        ops_columns({name: items}, chip)
        for name, one in phases.items()
        for chip, items in pools.get(name, next(iter(pools.values()))).steps.on_chips(one.priced)
    ]
    numbers = {name: system.pool.replicas for name, system in pools.items()} | dict(replicas or {})
    counts = {name: numbers[name] * system.pool.devices for name, system in pools.items()}
    devices = sum(counts.values())
    host_w = sum(numbers[name] * system.host_w for name, system in pools.items())
    return Background(
        ops={name: np.concatenate([table[name] for table in tables]) for name in tables[0]} if tables else {},
        bound={name: one.bound for name, one in phases.items()},
        provenance=_provenance(pools, phases),
        memory={name: _memory(system) for name, system in pools.items()},
        assumptions=_assumptions(scenario, pools),
        devices=devices,
        node_share_w=host_w / devices,
    )


def _provenance(pools: Mapping[str, PoolSystem], phases: Mapping[str, Step]) -> dict[str, Any]:
    """Share of the steps' time that rests on each kind of source, and the profiles behind them."""
    seconds: dict[str, float] = {}
    for one in phases.values():
        for item in one.priced:
            own = item.task.count * float(np.sum(item.cost.time_s))
            seconds[item.cost.provenance] = seconds.get(item.cost.provenance, 0.0) + own
    whole = sum(seconds.values()) or 1.0
    found: dict[str, Any] = {"kernel_time": {name: value / whole for name, value in sorted(seconds.items())}}
    for name, system in pools.items():
        found[name] = {"hardware": system.gpu.name, "fit": system.costs.fit.name, "engine": system.engine.name}
        if system.ffn is not None:
            found[name]["ffn"] = {"hardware": system.ffn.costs.gpu.name, "fit": system.ffn.costs.fit.name}
    return found


def _memory(system: PoolSystem) -> dict[str, Any]:
    plan, ffn = system.memory, system.ffn
    apart = {"ffn_device_bytes": ffn.costs.chip.capacity_bytes, "ffn_weight_bytes": system.expert_bytes} if ffn else {}
    return {
        "device_bytes": plan.capacity_bytes,
        "usable_bytes": plan.usable_bytes,
        "weight_bytes": plan.weight_bytes,
        "reserve_bytes": plan.reserve_bytes,
        "cache_bytes": max(plan.free_bytes, 0.0),
        "kv_blocks": plan.kv_blocks,
        "kv_tokens": plan.kv_tokens,
        "state_slots": plan.state_slots,
        **apart,
    }


def _assumptions(scenario: Scenario, pools: Mapping[str, PoolSystem]) -> list[str]:
    """What is assumed rather than measured or published, in sentences."""
    routed = "experts are loaded" if _routed(pools) else "no layer has experts, which would be loaded"
    asked = _routed(pools) or "expert_load" in scenario.model_fields_set
    lines = [f"{routed} {scenario.expert_load.word()}"] if asked else []
    if "prefill" in pools:
        lines.append("KV moves while both pools compute on: it slows no step, and its joules are not counted")
    for system in pools.values():
        if scenario.densities is not None and scenario.sparsity is None:
            lines.append(f"{system.gpu.name} multiplies zeros as any other value: its times do not use the densities")
        lines += [f"{system.model.name}: {line}" for line in system.model.assumed]
        for gpu in system.gpus:
            fitted = fitted_figures(gpu)
            assumed = [
                r["figure"] for r in figures(gpu) if r["source"].startswith("assumed") and r["figure"] not in fitted
            ]
            if assumed:
                lines.append(f"{gpu.name}: {', '.join(assumed)} are assumed")
        engine = [n for n, f in system.engine if isinstance(f, Figure) and f.kind == "assumed"]
        if engine:
            lines.append(f"engine {system.engine.name}: {', '.join(engine)} are assumed")
    return list(dict.fromkeys(lines))


def _routed(pools: Mapping[str, PoolSystem]) -> bool:
    return any(system.model.stored().experts for system in pools.values())
