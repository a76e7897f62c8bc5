"""Capacity: the highest load within the SLO.

The load is bisected; within a replication all loads are served with the same random numbers (a Poisson process sped up,
the same lengths), so that whether the SLO is met changes hands once. Every replication finds its own capacity with
random numbers of its own; their mean comes with Student's one-sided lower bound: the load to rely on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from sparsesim.errors import InfeasibleError, InputError, Problem
from sparsesim.metrics import summarise
from sparsesim.metrics.latency import slo_terms
from sparsesim.scenario import Scenario
from sparsesim.serving import serve
from sparsesim.studies import CapacityOptions
from sparsesim.study.cases import varied
from sparsesim.system import PoolSystem, systems
from sparsesim.units import parse
from sparsesim.workload import generate

LEVEL = 0.95
"""Of the one-sided lower bound."""
WIDEST = 40
"""Doublings or halvings at most, from the load that the scenario names."""
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One load served: attainment of the SLO, and the summary."""

    replication: int
    load: float
    attainment: float
    met: bool
    summary: dict[str, Any]


@dataclass(frozen=True)
class Capacity:
    """The highest load within the SLO, in the unit of the key that was raised.

    `each` [replications] found by bisection; `mean` of them; `bound` the one-sided 95 % lower bound of the mean (the
    only one found where there is a single replication); `at` the summary at the highest load met.
    """

    path: str
    unit: str
    each: tuple[float, ...]
    mean: float
    bound: float
    trials: tuple[Trial, ...]
    at: dict[str, Any]
    partial: bool = False

    def summary(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "path": self.path,
            "unit": self.unit,
            "capacity": self.mean,
            "capacity_low": self.bound,
            "level": LEVEL,
            "each": list(self.each),
            "cases": [
                {
                    "name": f"replication {t.replication}, {t.load:.6g} {self.unit}".strip(),
                    "set": {self.path: f"{t.load:.12g} {self.unit}".strip()},
                    "attainment": t.attainment,
                    "met": t.met,
                    "summary": t.summary,
                }
                for t in self.trials
            ],
            "at": self.at,
            "partial": self.partial,
        }


def capacity(scenario: Scenario, told: Told = lambda _what, _done, _of: None) -> Capacity:
    """Bisect the load of every replication.

    Interrupted from the keyboard, it holds the replications that were finished.

    Raises:
        InputError: there is no SLO, or the key is no number with a unit.
        InfeasibleError: the SLO is missed at any load; with what misses it at the lowest one tried.

    """
    options = _options(scenario)
    if not slo_terms(scenario.slo):
        raise InputError(Problem("capacity needs a limit", path="slo", hint="ttft, tpot or e2e"))
    start, unit = _start(scenario, options.path)
    search = _Search(scenario, options, unit, told)
    each: list[float] = []
    partial = False
    try:
        for replication in range(options.replications):
            each.append(search.bisect(replication, each[-1] if each else start))
            told(f"replication {replication}: {each[-1]:.4g} {unit}".strip(), replication + 1, options.replications)
    except KeyboardInterrupt:
        partial = True
        if not each:
            raise
    mean = float(np.mean(each))
    best = max((t for t in search.trials if t.met), key=lambda t: t.load)
    return Capacity(
        options.path, unit, tuple(each), mean, lower_bound(each), tuple(search.trials), best.summary, partial
    )


def lower_bound(each: list[float]) -> float:
    """Student's one-sided lower bound of the mean; the value itself where there is only one."""
    if len(each) < 2:
        return each[0]
    half = float(stdtrit(len(each) - 1, LEVEL)) * float(np.std(each, ddof=1)) / math.sqrt(len(each))
    return float(np.mean(each)) - half


def _options(scenario: Scenario) -> CapacityOptions:
    study = scenario.study
    if study is None:
        return CapacityOptions()
    if not isinstance(study.options, CapacityOptions):
        raise InputError(Problem(f"the study is {study.kind}", path="study.kind", hint="capacity"))
    if not study.options.path.startswith("workload."):
        raise InputError(Problem(f"{study.options.path!r} is no load", path="study.options.path", hint="workload. ..."))
    if study.axes:
        raise InputError(Problem("capacity varies its own path only", path="study.axes", hint="study.options.path"))
    return study.options


def _start(scenario: Scenario, path: str) -> tuple[float, str]:
    """The load that the scenario names, and its unit as written."""
    node: Any = scenario.document.values
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, int | float) and not isinstance(node, bool) and node > 0:
        return float(node), ""
    if isinstance(node, str):
        number, _, unit = node.strip().partition(" ")
        try:
            value = float(number)
            parse(node, "rate")
            if value > 0:
                return value, unit.strip()
        except ValueError:
            pass
    hint = "a rate such as 10 /s, or a number such as a trace's speed"
    raise InputError(Problem(f"{node!r} cannot be raised", path=path, hint=hint))


@dataclass
class _Search:
    scenario: Scenario
    options: CapacityOptions
    unit: str
    told: Told

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []
        self._systems: dict[str, PoolSystem] | None = None

    def bisect(self, replication: int, start: float) -> float:
        """The highest load met, to the relative precision asked for; bracketed by doubling from `start`."""
        low, high = 0.0, math.inf
        load = start
        for _ in range(WIDEST):
            if self.trial(replication, load).met:
                low = load
            else:
                high = load
            if low > 0 and math.isfinite(high):
                break
            load = load * 2 if math.isinf(high) else load / 2
        if low == 0:
            self._infeasible(load)
        if math.isinf(high):
            raise InputError(
                Problem(
                    f"the SLO is met even at {low:.3g} {self.unit}: more requests are needed to tell", path="workload"
                )
            )
        while high / low - 1 > self.options.precision:
            middle = math.sqrt(low * high)
            if self.trial(replication, middle).met:
                low = middle
            else:
                high = middle
        return low

    def trial(self, replication: int, load: float) -> Trial:
        """Serve the workload at a load."""
        value = f"{load:.12g} {self.unit}" if self.unit else load
        scenario = varied(self.scenario, {self.options.path: value})
        if self._systems is None:
            self._systems = systems(scenario)
        requests = generate(scenario.workload, scenario.simulation.seed, replication, scenario.folder)
        records = serve(scenario, self._systems, requests)
        if records.partial:
            raise KeyboardInterrupt
        summary = summarise(records, scenario.slo, scenario.simulation.warm_up)
        slo = summary["slo"] or {"attainment": 0.0, "met": False}
        one = Trial(replication, load, float(slo["attainment"]), bool(slo["met"]), summary)
        self.trials.append(one)
        met = "met" if one.met else "missed"
        self.told(
            f"{load:.4g} {self.unit} {met} ({100 * one.attainment:.2f} %)", replication, self.options.replications
        )
        return one

    def _infeasible(self, load: float) -> None:
        """Say what misses the SLO when hardly anything is asked."""
        last = min(self.trials, key=lambda t: t.load)
        slo = self.scenario.slo
        terms = last.summary["slo"]["terms"] if last.summary["slo"] else {}
        worst = min(terms, key=lambda name: terms[name]["attainment"], default="")
        found = last.summary.get(worst) or {}
        limit = terms[worst]["limit"] if worst else 0.0
        reached = f", {worst} p99 is {found['p99']:.4g} s against {limit:.4g} s" if found.get("p99") else ""
        at = f"at {last.load:.3g} {self.unit} {100 * last.attainment:.2f} % of the requests meet it"
        raise InfeasibleError(f"the SLO is missed at any load: {at}, {slo.percentile:g} % are asked for{reached}")
