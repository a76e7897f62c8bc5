"""The finalists: which candidates are simulated, in which order, and what they do.

All finalists of a variant serve the same requests (common random numbers). The next one is the cheapest that is
predicted to meet the SLO; predictions are corrected by the median of simulated over predicted percentiles so far. Once
one has met it, candidates that would be better still, in order of how near they are, take turns with its equals.
A batch limit that was never reached changes nothing: such twins are not simulated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.cost.step import ReplicaSteps
from sparsesim.metrics import summarise
from sparsesim.scenario import Scenario
from sparsesim.serving import serve
from sparsesim.sim.records import Records
from sparsesim.study.planning.instances import Instance
from sparsesim.study.planning.money import OBJECTIVES, Rates, mixed
from sparsesim.study.planning.screen import TERMS, Family, Screened, limits_of
from sparsesim.study.planning.sites import deployed
from sparsesim.system import PoolSystem, systems

SLIGHT = 1e-9
"""Relative difference of objectives below which two candidates are equal."""
CREDIBLE = 2.0
"""Factor up to which other layouts' errors of prediction are taken for a layout's own."""
WORTH = 2.0
"""A candidate predicted to miss the SLO by more than this factor is not simulated once another one meets it: the
shipped plans' predictions are within it of what was simulated."""


@dataclass(frozen=True)
class Finalist:
    """A candidate that was simulated: its row of the screening, its scenario and what came out."""

    row: int
    name: str
    scenario: Scenario
    summary: Mapping[str, Any]
    measured: Floats
    objectives: dict[str, float]
    met: bool
    peak: int

    @property
    def attainment(self) -> float:
        """Share of requests that met every term; 1 without an SLO."""
        slo = self.summary.get("slo")
        return float(slo["attainment"]) if slo else 1.0

    @property
    def replicas(self) -> int:
        """Of the pool that decodes."""
        pools = self.scenario.deployment.by_name()
        return next(pools[name].replicas for name in ("decode", "all") if name in pools)

    @property
    def running(self) -> float:
        """Sequences that such a replica runs in the mean."""
        everywhere = sum(pool.replicas for pool in self.scenario.deployment.by_name().values())
        return float(self.summary["running"] or 1.0) * everywhere / self.replicas


@dataclass
class Search:
    """The state of a search: what is known of the candidates, and who was simulated."""

    families: list[Family]
    candidates: Screened
    objective: str
    done: list[Finalist] = field(default_factory=list)
    twins: dict[int, int] = field(default_factory=dict)
    corrections: Floats | None = None
    _steps: dict[tuple[Instance, float], ReplicaSteps] = field(default_factory=dict, repr=False)

    @property
    def column(self) -> str:
        """The column that is lowered."""
        return OBJECTIVES[self.objective]

    def limits(self) -> Floats:
        """Limits of every candidate, [candidates, 3]."""
        return limits_by_family(self.families)[self.candidates.family]

    def correction(self) -> Floats:
        """Simulated over predicted percentiles, [candidates, 3]: a family's median, else that of its kin in `CREDIBLE`.

        What one layout taught is not carried to the others whole: it may have met a limit that they do not have.
        Pools learn from pools, and only where none was simulated from replicas that do both phases, or these from them.
        """
        if self.corrections is not None:
            return self.corrections[self.candidates.family]
        by_family = np.ones((len(self.families), len(TERMS)))
        if self.done:
            rows = [one.row for one in self.done]
            seen = np.stack([one.measured for one in self.done]) / self.candidates.high[rows]
            logs = np.log(np.where(np.isfinite(seen) & (seen > 0), seen, 1.0))
            limit = math.log(CREDIBLE)
            of = self.candidates.family[rows]
            pooled = np.array([family.prefill is not None for family in self.families])
            for kind in (False, True):
                kin = pooled[of] == kind
                own = logs[kin] if kin.any() else logs
                by_family[pooled == kind] = np.exp(np.clip(np.median(own, axis=0), -limit, limit))
            for number in np.unique(of).tolist():
                by_family[number] = np.exp(np.median(logs[of == number], axis=0))
        return np.asarray(by_family[self.candidates.family])

    def by_family(self) -> Floats:
        """The corrections of every family, [families, 3], to be used on another table."""
        found = np.ones((len(self.families), len(TERMS)))
        found[self.candidates.family] = self.correction()
        return found

    def corrected(self) -> Floats:
        """Predicted percentiles corrected by what was simulated, [candidates, 3]; infinite where nothing is served."""
        return np.asarray(self.candidates.high * self.correction())

    def ratio(self) -> Floats:
        """Largest corrected percentile over its limit, [candidates]."""
        predicted = np.minimum(self.corrected(), 1e300)
        ratio = (predicted / self.limits()).max(axis=1, initial=0.0)
        return np.where(self.candidates.saturated, np.inf, ratio)

    def best(self) -> Finalist | None:
        """Of those that met the SLO the one with the lowest objective, of equals the least energy a token."""
        met = [one for one in self.done if one.met]
        return min(met, key=lambda one: rank(one, self.column), default=None)

    def next(self, dead: npt.NDArray[np.bool_]) -> int | None:
        """The row to simulate next; None when there is nothing left that could be of use."""
        ratio = self.ratio()
        left = ~dead & np.isfinite(ratio)
        left[[one.row for one in self.done]] = False
        left[list(self.twins)] = False
        goal, energy = (self.candidates.objectives[name] for name in (self.column, "j_per_output_tok"))
        best = self.best()
        if not left.any():
            return None
        if best is None:
            likely = left & (ratio <= 1)
            return _lowest(likely, goal, energy) if likely.any() else _lowest(left, ratio, goal)
        reach = best.objectives[self.column] * (1 - SLIGHT)
        better = left & (goal < reach) & (ratio < WORTH)
        likely = left & (ratio <= 1)
        if better.any() and (len(self.done) % 2 or not likely.any()):
            return _lowest(better, np.round(np.maximum(ratio, 1.0), 2), goal)
        if likely.any():
            return _lowest(likely, goal, energy)
        near = left & (ratio < WORTH)
        return _lowest(near, np.round(ratio, 2), goal) if near.any() else None

    def rival(self, dead: npt.NDArray[np.bool_]) -> int | None:
        """Where pools compete with replicas that do both: the best of the kind that did not win, until one met the SLO.

        So that what the other kind would cost is simulated, too.
        """
        best, pooled = self.best(), self.candidates.prefill_replicas > 0
        if best is None or pooled.all() or not pooled.any():
            return None
        other = pooled != pooled[best.row]
        if any(one.met and other[one.row] for one in self.done):
            return None
        left = other & ~dead & (self.ratio() <= 1)
        left[[one.row for one in self.done]] = False
        left[list(self.twins)] = False
        goal, energy = (self.candidates.objectives[name] for name in (self.column, "j_per_output_tok"))
        return _lowest(left, goal, energy) if left.any() else None

    def simulate(self, row: int, told: Callable[[str], None]) -> Finalist:
        """Serve the variant's requests with one candidate."""
        family = self.families[int(self.candidates.family[row])]
        scenario = scenario_of(self.candidates, row, family)
        pools = systems(scenario)
        steps = {
            name: self._steps_of(one, float(self.candidates.cap_w[row]), pools[name])
            for name, one in zip(pools, family.instances.values(), strict=True)
        }
        records = serve(scenario, pools, family.variant.requests, steps)
        summary = summarise(records, scenario.slo)
        if records.partial:
            raise KeyboardInterrupt
        percentile = f"p{scenario.slo.percentile:g}"
        finished = {name: _percentile(records.requests, name, scenario.slo.percentile) for name in TERMS}
        found = Finalist(
            row=row,
            name=name_of(self.candidates, row, family),
            scenario=scenario,
            summary={**summary, "percentiles": {f"{name}.{percentile}": value for name, value in finished.items()}},
            measured=np.array([finished[name] for name in TERMS]),
            objectives=self._objectives(summary, row, family),
            met=bool(summary["slo"]["met"]) if summary["slo"] else summary["requests"]["failed"] == 0,
            peak=_peak(records, int(self.candidates.prefill_replicas[row])),
        )
        self.done.append(found)
        self._mark_twins(found)
        told(found.name)
        return found

    def _steps_of(self, instance: Instance, cap_w: float, system: PoolSystem) -> ReplicaSteps:
        """Steps that all finalists with this instance share, whatever their role and number."""
        return self._steps.setdefault((instance, min(cap_w, instance.own_w)), system.steps)

    def _objectives(self, summary: Mapping[str, Any], row: int, family: Family) -> dict[str, float]:
        """Money per token asked for; energy as simulated."""
        c = self.candidates
        energy = np.array([summary["j_per_output_tok"] or np.inf])
        tokens = np.array([family.variant.demand.rate_per_s * family.variant.demand.load.output_tok])
        e2e = np.array([summary["e2e_s"]["mean"] or np.inf])
        rates = family_rates(family, int(c.replicas[row]), int(c.prefill_replicas[row]))
        found = rates.objectives(energy * tokens, c.devices[row : row + 1], tokens, e2e)
        return {name: float(column[0]) for name, column in found.items()}

    def _mark_twins(self, one: Finalist) -> None:
        family = self.families[int(self.candidates.family[one.row])]
        plan = family.instance.plan
        if plan is None or plan.state_bytes > 0 or one.peak > self.candidates.max_running[one.row]:
            return
        c = self.candidates
        same = c.max_running >= one.peak
        for name in ("family", "replicas", "prefill_replicas", "token_budget", "scheduler", "cap_w"):
            column = getattr(c, name)
            same &= column == column[one.row]
        for row in np.flatnonzero(same).tolist():
            if row != one.row:
                self.twins.setdefault(row, one.row)


def rank(one: Finalist, column: str) -> tuple[float, float, float]:
    """Order among those that met the SLO: objective to nine digits, then energy, then time."""
    return (float(f"{one.objectives[column]:.9g}"), one.objectives["j_per_output_tok"], one.objectives["e2e_s"])


def family_rates(family: Family, replicas: int, prefill_replicas: int) -> Rates:
    """Money, node power and carbon of a device: of a deployment on devices of two kinds their mean."""
    counts = (prefill_replicas, replicas) if family.prefill else (replicas,)
    first = np.zeros(1, np.intp)
    sides = [
        ([one.rates], first, np.array([count * one.layout.devices]))
        for one, count in zip(family.instances.values(), counts, strict=True)
        if one.rates is not None
    ]
    return sides[0][0][0] if len(sides) == 1 else mixed(sides)


def limits_by_family(families: list[Family]) -> Floats:
    """Limits of every family's variant, [families, 3]."""
    of = {id(family.variant): limits_of(family.variant.scenario.slo) for family in families}
    return np.array([of[id(family.variant)] for family in families]).reshape(-1, len(TERMS))


def _peak(records: Records, first_decode: int) -> int:
    """Sequences that a replica ever held at once and one more: those of decode replicas, where there are two pools."""
    decodes = np.asarray(records.steps["replica"], int) >= first_decode
    return int(np.asarray(records.steps["running"], int)[decodes].max(initial=0)) + 1


def scenario_of(candidates: Screened, row: int, family: Family) -> Scenario:
    """The scenario of a candidate."""
    c, own_w = candidates, family.own_w
    limits = {"max_running": int(c.max_running[row]), "token_budget": int(c.token_budget[row])}
    counts = {"serve": c.replicas, "prefill": c.prefill_replicas, "decode": c.replicas}
    pools = {
        role: (
            one.site,
            {
                **one.layout._asdict(),
                "replicas": int(counts[role][row]),
                "scheduler": one.site.scheduler(str(c.scheduler[row]), role, limits),
            },
        )
        for role, one in family.instances.items()
    }
    cap = float(c.cap_w[row])
    return deployed(family.variant.scenario, pools, f"{cap:.17g} W" if cap < own_w else None)


def name_of(candidates: Screened, row: int, family: Family) -> str:
    """A candidate in words, what is as usual left out."""
    c = candidates
    counts = {"serve": c.replicas, "prefill": c.prefill_replicas, "decode": c.replicas}
    pools = [
        f"{role if role != 'serve' else ''} {int(counts[role][row])} x {one.name}".lstrip()
        for role, one in family.instances.items()
    ]
    parts = [f"{family.variant.name}: {', '.join(pools)}" if family.variant.name else ", ".join(pools)]
    parts += [str(c.scheduler[row])] if not family.prefill else []
    parts.append(f"batch {int(c.max_running[row])}, budget {int(c.token_budget[row])} tok")
    if float(c.cap_w[row]) < family.own_w:
        parts.append(f"cap {float(c.cap_w[row]):g} W")
    return ", ".join(parts)


def _lowest(mask: npt.NDArray[np.bool_], first: npt.NDArray[Any], second: npt.NDArray[Any]) -> int:
    rows = np.flatnonzero(mask)
    return int(rows[np.lexsort((second[rows], np.array([float(f"{v:.9g}") for v in first[rows]])))[0]])


def _percentile(requests: Mapping[str, Any], name: str, percentile: float) -> float:
    """Of all requests; one that did not finish took for ever."""
    from sparsesim.metrics.latency import with_latencies

    values = np.asarray(with_latencies(dict(requests))[name], float)
    finished = np.asarray(requests["outcome"]) == "finished"
    one_token = np.asarray(requests["output_tok"]) < 2
    values = np.where(finished, np.where(np.isnan(values) & one_token, 0.0, values), np.inf)
    return float(np.percentile(values, percentile, method="higher"))
