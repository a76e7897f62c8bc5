"""What a scenario stands for: each pool's model, layout, costs and memory, ready to be estimated or simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.cost.memory import MemoryPlan, check_fits, plan_memory
from sparsesim.cost.step import ReplicaSteps
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.engine import Engine, load_engine
from sparsesim.hardware.profile import load_device
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting
from sparsesim.model.sparsity import Sparsity
from sparsesim.model.zoo import load_model
from sparsesim.scenario import Hardware, Pool, Scenario


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

    @cached_property
    def steps(self) -> ReplicaSteps:
        """Step costs of a replica."""
        return ReplicaSteps(self.model, self.setting, self.costs, self.engine, self.pool.devices)

    def stretched(self, factor: float) -> ReplicaSteps:
        """Step costs with kernel times scaled: the bounds of an interval."""
        return replace(self.steps, stretch=factor, _curves={}, _chunks={})

    @cached_property
    def memory(self) -> MemoryPlan:
        """Weights, cache and states of a replica.

        Raises:
            DoesNotFitError: with the bytes, and the smallest change that would fit.

        """
        settings = self.pool.memory
        plan = plan_memory(
            self.model,
            self.setting,
            self.costs.chip.capacity_bytes,
            utilisation=settings.utilisation,
            reserve_bytes=self.engine.reserve.value,
            block_tok=round(settings.block),
            max_running=self.max_running,
            kv_blocks=settings.kv_blocks,
        )
        check_fits(plan, self.model, self.setting, self.gpu.name)
        return plan

    @property
    def max_running(self) -> int:
        """Sequences a replica runs at most."""
        return int(getattr(self.pool.scheduler, "max_running", None) or getattr(self.pool.scheduler, "batch", 256))

    @property
    def devices(self) -> int:
        """Of all replicas."""
        return self.pool.devices * self.pool.replicas


def systems(scenario: Scenario) -> dict[str, PoolSystem]:
    """Every pool of a scenario.

    Raises:
        InputError: what it names is not known, or does not go together.

    """
    model = model_of(scenario)
    return {name: _system(name, pool, model, scenario) for name, pool in scenario.deployment.by_name().items()}


def model_of(scenario: Scenario) -> Model:
    """The scenario's model, a path taken from the scenario's folder."""
    beside = scenario.folder / scenario.model
    return load_model(beside if Path(scenario.model).suffix and beside.is_file() else scenario.model)


def _system(name: str, pool: Pool, model: Model, scenario: Scenario) -> PoolSystem:
    gpu = gpu_of(pool.hardware)
    engine = load_engine(pool.engine)
    cap = scenario.power.cap
    if cap is not None and cap > gpu.power.cap.value:
        own = gpu.power.cap.value
        raise InputError(Problem(f"{cap:g} W is above {gpu.name}'s own cap of {own:g} W", path="power.cap"))
    setting = Setting(
        tp=pool.tp,
        dp=pool.dp,
        ep=pool.ep,
        pp=pool.pp,
        gpus_per_node=gpu.node.gpus.value,
        precision=scenario.precision or model.precision,
        expert_load=load_text(scenario.expert_load),
        sparsity=Sparsity.resolve(scenario.sparsity) if scenario.sparsity else None,
        fused=engine.fused,
    )
    return PoolSystem(name, pool, model, gpu, engine, setting, cost_model(gpu, cap))


def gpu_of(hardware: Hardware) -> Gpu:
    """The GPU profile, in its mode.

    Raises:
        InputError: unknown, or not a GPU.

    """
    device = load_device(hardware.name)
    if not isinstance(device, Gpu):
        raise InputError(
            Problem(f"{device.name} is {device.kind}: serving runs on GPUs", path="deployment.hardware")
        )
    return device.in_mode(hardware.mode) if hardware.mode else device


def load_text(load: str | dict[str, Any]) -> str:
    """An expert load as the cost core's one word, `zipf:0.8`."""
    if isinstance(load, str):
        return load
    numbers = [value for key, value in load.items() if key != "kind"]
    return ":".join([str(load.get("kind", "")), *(str(n) for n in numbers)])
