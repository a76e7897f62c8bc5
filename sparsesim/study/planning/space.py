"""What a plan chooses from: variants of the scenario, layouts of a replica, and limits of its batch.

Layouts (tp, dp, ep, pp), replicas, limits, schedulers and power caps share curves and are screened together, pools of
prefill and decode beside replicas that do both; any other axis (model, hardware, precision, workload ...) makes a
variant of the scenario of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from sparsesim.errors import InputError, Problem, closest
from sparsesim.handover import Gaps
from sparsesim.scenario import Scenario
from sparsesim.sim.schedulers import Scheduler
from sparsesim.studies import PlanOptions, Study
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import Load
from sparsesim.study.planning.operate import Demand
from sparsesim.study.planning.sites import POOLS, Role, Site, check_plannable, sites
from sparsesim.system import gpu_of, model_of
from sparsesim.units import parse
from sparsesim.workload import RequestTable, generate

DEGREES = ("tp", "dp", "ep", "pp")
PLAIN_AXES = {
    **{f"deployment.{name}": name for name in (*DEGREES, "replicas")},
    "deployment.scheduler.max_running": "max_running",
    "deployment.scheduler.token_budget": "token_budget",
    "deployment.scheduler": "scheduler",
    "power.cap": "cap",
    **{
        f"deployment.pools.{role}.{name}": f"{role}.{name}"
        for role in POOLS
        for name in (*DEGREES, "replicas", "hardware")
    },
    "deployment.pools.prefill.scheduler.token_budget": "prefill.token_budget",
    "deployment.pools.decode.scheduler.max_running": "decode.max_running",
}
"""Axes whose values share curves; a pool without an axis of its own takes that of the deployment."""
PAUSING = {"continuous": False, "sglang": True}
"""Schedulers that can be screened, and whether decoding pauses while prompts are computed."""
MAX_RUNNING = (32, 64, 128, 256, 512)
TOKEN_BUDGETS = (2048, 4096, 8192)
"""Tried where no axis names them: around the engines' defaults (vLLM 2048 to 8192 by device, SGLang 8192)."""


class Layout(NamedTuple):
    """How a replica is laid over devices."""

    tp: int
    dp: int
    ep: int
    pp: int

    @property
    def devices(self) -> int:
        """Of one replica."""
        return self.tp * self.dp * self.pp

    def __str__(self) -> str:
        degrees = zip(DEGREES, self, strict=True)
        return " ".join(f"{name} {n}" for name, n in degrees if n > 1 or name == "tp")


@dataclass(frozen=True)
class Variant:
    """The scenario with its other axes set, and what it is asked for."""

    name: str
    set: dict[str, Any]
    scenario: Scenario
    requests: RequestTable
    demand: Demand
    sites: dict[Role, tuple[Site, ...]]


@dataclass(frozen=True)
class Space:
    """Everything that is tried, by replicas of which `roles`."""

    scenario: Scenario
    options: PlanOptions
    devices: int
    variants: tuple[Variant, ...]
    axes: dict[str, list[Any]]
    roles: tuple[Role, ...] = ("serve",)

    def axis(self, role: Role, name: str, default: Iterable[Any] = ()) -> list[Any]:
        """Values for a role: of its pool's own axis, else the deployment's, else the default ones.

        A deployment's replicas do both phases: their number is not that of a pool's.
        """
        of_all = [] if name == "replicas" and role != "serve" else [name]
        named = next((n for n in (f"{role}.{name}", *of_all) if n in self.axes), None)
        return list(default) if named is None else self.axes[named]

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets of any role."""
        return tuple(dict.fromkeys(n for role in self.roles for n in self.axis(role, "token_budget")))

    @property
    def most(self) -> int:
        """The largest batch of any role."""
        return max(int(n) for role in self.roles for n in self.axis(role, "max_running"))

    def layouts(self, variant: Variant, site: Site, role: Role) -> Iterator[Layout]:
        """Every layout of a replica within the devices."""
        routed = bool(model_of(variant.scenario).stored().experts)
        node = gpu_of(site.scenario.deployment.by_name()["all"].hardware).node.gpus.value
        powers = [2**k for k in range(self.devices.bit_length())]
        tps = self.axis(role, "tp", [n for n in powers if n <= node])
        dps = self.axis(role, "dp", powers if routed else [1])
        pps = self.axis(role, "pp", powers)
        for tp, dp, pp in itertools.product(tps, dps, pps):
            spread = list(dict.fromkeys((1, tp * dp))) if routed else [1]
            for ep in self.axis(role, "ep", spread):
                layout = Layout(tp, dp, ep, pp)
                if layout.devices <= self.devices and (tp * dp) % ep == 0:
                    yield layout

    def replicas(self, role: Role, layout: Layout) -> list[int]:
        """Numbers of replicas within the devices."""
        most = self.devices // layout.devices
        return [n for n in self.axis(role, "replicas", range(1, most + 1)) if n <= most]


def space(scenario: Scenario) -> Space:
    """The space of a scenario whose study is a plan; without a study, the default one.

    Raises:
        InputError: the study is another one, an axis has a value that is none, or the workload has no rate.

    """
    study = scenario.study or Study(kind="plan")
    if not isinstance(study.options, PlanOptions):
        raise InputError(Problem(f"{study.kind!r} is no plan", path="study.kind", hint="plan"))
    check_plannable(scenario)
    axes = {PLAIN_AXES[path]: _checked(path, values) for path, values in study.axes.items() if path in PLAIN_AXES}
    own: dict[str, list[Any]] = {"scheduler": ["continuous"], "cap": [scenario.power.cap]}
    axes = {**own, "max_running": list(MAX_RUNNING), "token_budget": list(TOKEN_BUDGETS), **axes}
    devices = study.options.devices or sum(p.devices * p.replicas for p in scenario.deployment.by_name().values())
    others = [path for path in study.axes if path not in PLAIN_AXES]
    roles = _roles(scenario, study.options, axes, others, devices)
    return Space(scenario, study.options, devices, tuple(_variants(scenario, study, axes, roles)), axes, roles)


def _roles(
    scenario: Scenario, options: PlanOptions, axes: dict[str, list[Any]], others: list[str], devices: int
) -> tuple[Role, ...]:
    """Which replicas are searched: those that do both phases, and pools where anything of the study speaks of them."""
    of_pools = [name for name in axes if name.partition(".")[0] in POOLS]
    pools = options.pools
    if pools is None:
        pools = bool(scenario.deployment.pools or of_pools)
    beside = [path for path in others if path.startswith("deployment.pools.")]
    if beside and scenario.deployment.pools is None:
        names = ", ".join((*DEGREES, "replicas", "hardware"))
        hint = f"name the pools in the scenario; without them axes of a pool are {names} and its searched limit"
        raise InputError(Problem("the scenario has no pools", path=f"study.axes.{beside[0]}", hint=hint))
    if not pools and of_pools:
        path = f"study.axes.deployment.pools.{of_pools[0]}"
        raise InputError(
            Problem("no pools are searched with pools: false", path=path, hint="study.options.pools: true")
        )
    if pools and "continuous" not in axes["scheduler"]:
        text = "pools of prefill and decode batch continuously"
        raise InputError(Problem(text, path="study.axes.deployment.scheduler", hint="continuous, or pools: false"))
    if pools == "only" and devices < 2:
        raise InputError(Problem("two pools need two devices", path="study.options.devices", hint="at least 2"))
    return ("serve",) if not pools else POOLS if pools == "only" else ("serve", *POOLS)


def _variants(
    scenario: Scenario, study: Study, axes: dict[str, list[Any]], roles: tuple[Role, ...]
) -> Iterator[Variant]:
    others = {path: values for path, values in study.axes.items() if path not in PLAIN_AXES}
    assert isinstance(study.options, PlanOptions)
    hardware = {role: axes[f"{role}.hardware"] for role in POOLS if f"{role}.hardware" in axes}
    for values in itertools.product(*others.values()):
        settings = dict(zip(others, values, strict=True))
        one = varied(scenario, settings)
        requests = generate(one.workload, one.simulation.seed, 0, one.folder)
        requests = requests.take(np.arange(min(len(requests), study.options.requests)))
        demand = demand_of(requests, one.slo.percentile)
        yield Variant(_words(settings), settings, one, requests, demand, sites(one, hardware, POOLS[0] in roles))


def demand_of(requests: RequestTable, percentile: float) -> Demand:
    """What a table of requests asks for.

    Raises:
        InputError: it is a closed loop, or its requests come all at once.

    """
    span = float(requests.arrival_s[-1] - requests.arrival_s[0]) if len(requests) else 0.0
    if requests.concurrency is not None or span <= 0:
        problem = "has no rate: a plan needs arrivals that do not wait for answers"
        raise InputError(Problem(problem, path="workload.arrivals", hint="such as {kind: poisson, rate: 12 /s}"))
    prompt, output = (column.astype(float) for column in (requests.prompt_tok, requests.output_tok))
    mean = float(prompt.mean())
    return Demand(
        load=Load(max(round(mean), 1), float(output.mean())),
        rate_per_s=(len(requests) - 1) / span,
        percentile=percentile,
        long_prompt=float(np.percentile(prompt, percentile)) / mean,
        long_output=float(np.percentile(output, percentile)) / float(output.mean()),
        spread=float(prompt.var()) / mean**2,
        deviations=float(max(ndtri(min(percentile / 100, 0.9999)), 0.0)),
        gaps=Gaps.of(prompt, output, percentile),
    )


def _words(settings: dict[str, Any]) -> str:
    """A variant's values, the longer paths by their last words."""
    named = {"model", "hardware"}
    return ", ".join(
        str(value["name"]) if isinstance(value, dict) and "name" in value
        else _value(value) if path.rpartition(".")[2] in named
        else f"{path.rpartition('.')[2]} {_value(value)}"
        for path, value in settings.items()
    )  # fmt: skip


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(dict.fromkeys(str(item) for item in value.values()))
    return str(value)


def _checked(path: str, values: list[Any]) -> list[Any]:
    """An axis's values: whole numbers, kinds of schedulers, watts (null: the device's own cap), or hardware."""
    found = []
    for value in values:
        try:
            one = _one(PLAIN_AXES[path].rpartition(".")[2], value)
        except ValueError as error:
            raise InputError(Problem(str(error), path=f"study.axes.{path}")) from None
        found += [] if one in found else [one]
    return found


def _one(name: str, value: Any) -> Any:
    if name == "cap":
        return None if value is None else parse(value, "power")
    if name == "hardware":
        if not isinstance(value, (str, dict)):
            raise ValueError(f"{value!r} is no hardware; a profile's name, such as h100-sxm")
        return value
    if name == "scheduler":
        kind = value.get("kind") if isinstance(value, dict) and len(value) == 1 else value
        Scheduler.resolve(kind)
        if kind not in PAUSING:
            raise ValueError(f"{kind!r} cannot be screened; {closest(str(kind), PAUSING)}")
        return kind
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return value
