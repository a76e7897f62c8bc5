"""What a plan chooses from: variants of the scenario, layouts of a replica, and limits of its batch.

Layouts (tp, dp, ep, pp), replicas, limits, schedulers and power caps share curves and are screened together; any other
axis (model, hardware, precision, workload ...) makes a variant of the scenario of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from sparsesim.errors import InputError, Problem, closest
from sparsesim.scenario import Scenario
from sparsesim.sim.schedulers import Scheduler
from sparsesim.studies import PlanOptions, Study
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import Load
from sparsesim.study.planning.operate import Demand
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
}
"""Axes whose values share curves."""
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


@dataclass(frozen=True)
class Space:
    """Everything that is tried."""

    scenario: Scenario
    options: PlanOptions
    devices: int
    variants: tuple[Variant, ...]
    axes: dict[str, list[Any]]

    def layouts(self, variant: Variant) -> Iterator[Layout]:
        """Every layout of a replica within the devices."""
        routed = bool(model_of(variant.scenario).stored().experts)
        node = gpu_of(variant.scenario.deployment.by_name()["all"].hardware).node.gpus.value
        powers = [2**k for k in range(self.devices.bit_length())]
        tps = self.axes.get("tp", [n for n in powers if n <= node])
        dps = self.axes.get("dp", powers if routed else [1])
        pps = self.axes.get("pp", powers)
        for tp, dp, pp in itertools.product(tps, dps, pps):
            spread = list(dict.fromkeys((1, tp * dp))) if routed else [1]
            for ep in self.axes.get("ep", spread):
                layout = Layout(tp, dp, ep, pp)
                if layout.devices <= self.devices and (tp * dp) % ep == 0:
                    yield layout

    def replicas(self, layout: Layout) -> list[int]:
        """Numbers of replicas within the devices."""
        most = self.devices // layout.devices
        return [n for n in self.axes.get("replicas", range(1, most + 1)) if n <= most]


def space(scenario: Scenario) -> Space:
    """The space of a scenario whose study is a plan; without a study, the default one.

    Raises:
        InputError: the study is another one, an axis has a value that is none, or the workload has no rate.

    """
    study = scenario.study or Study(kind="plan")
    if not isinstance(study.options, PlanOptions):
        raise InputError(Problem(f"{study.kind!r} is no plan", path="study.kind", hint="plan"))
    if scenario.deployment.pools is not None:
        raise InputError(Problem("a plan starts from one pool", path="deployment.pools", hint="deployment.hardware"))
    if scenario.deployment.ffn is not None:
        raise InputError(Problem("a plan tries no devices for experts alone", path="deployment.ffn", hint="a sweep"))
    axes = {PLAIN_AXES[path]: list(values) for path, values in study.axes.items() if path in PLAIN_AXES}
    pool = scenario.deployment.by_name()["all"]
    checked = {name: _checked(name, values) for name, values in axes.items()}
    own: dict[str, list[Any]] = {"scheduler": ["continuous"], "cap": [scenario.power.cap]}
    own |= {"max_running": list(MAX_RUNNING), "token_budget": list(TOKEN_BUDGETS)}
    devices = study.options.devices or pool.devices * pool.replicas
    return Space(scenario, study.options, devices, tuple(_variants(scenario, study)), {**own, **checked})


def _variants(scenario: Scenario, study: Study) -> Iterator[Variant]:
    others = {path: values for path, values in study.axes.items() if path not in PLAIN_AXES}
    assert isinstance(study.options, PlanOptions)
    for values in itertools.product(*others.values()):
        settings = dict(zip(others, values, strict=True))
        one = varied(scenario, settings)
        requests = generate(one.workload, one.simulation.seed, 0, one.folder)
        requests = requests.take(np.arange(min(len(requests), study.options.requests)))
        yield Variant(_words(settings), settings, one, requests, demand_of(requests, one.slo.percentile))


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


def _checked(name: str, values: list[Any]) -> list[Any]:
    """An axis's values: numbers from 1, kinds of schedulers, or watts (null: the device's own cap)."""
    path = next(path for path, short in PLAIN_AXES.items() if short == name)
    found = []
    for value in values:
        try:
            found.append(_one(name, value))
        except ValueError as error:
            raise InputError(Problem(str(error), path=f"study.axes.{path}")) from None
    return list(dict.fromkeys(found))


def _one(name: str, value: Any) -> Any:
    if name == "cap":
        return None if value is None else parse(value, "power")
    if name == "scheduler":
        kind = value.get("kind") if isinstance(value, dict) and len(value) == 1 else value
        Scheduler.resolve(kind)
        if kind not in PAUSING:
            raise ValueError(f"{kind!r} cannot be screened; {closest(str(kind), PAUSING)}")
        return kind
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return value
