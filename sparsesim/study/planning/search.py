"""The plan: screen everything, simulate the best, say why the others lost and what would change the choice."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.closed_form import Load, pool_phases
from sparsesim.cost.memory import check_fits
from sparsesim.errors import DoesNotFitError, InfeasibleError, InputError, Problem
from sparsesim.scenario import Scenario
from sparsesim.study.planning.finalists import Finalist, Search, name_of, rank
from sparsesim.study.planning.front import front
from sparsesim.study.planning.launch import Launch, launches
from sparsesim.study.planning.money import OBJECTIVES
from sparsesim.study.planning.reasons import Reason, miss_of, reasons, ruled_out
from sparsesim.study.planning.screen import LOADS, Family, Screened, joined, limits_of
from sparsesim.study.planning.space import Space, space
from sparsesim.study.planning.table import Table, Told, first_guess
from sparsesim.system import background, systems

RIVALS = 2
"""Finalists at the end that the other kind (pools, or replicas that do both) gets where none of it has met the SLO."""
SLO_FACTORS = (0.5, 2.0)
"""Multiples of every limit of the SLO, the same."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the screening would choose if something were otherwise."""

    what: str
    choice: str
    same_family: bool


@dataclass(frozen=True)
class Plan:
    """The outcome of a search.

    `front` are the rows of the candidates that no other one beats in cost (devices without a price), energy per token
    and end-to-end time at once, of those that may meet the SLO.
    """

    space: Space
    search: Search
    dead: npt.NDArray[np.bool_]
    reasons: list[Reason]
    winner: Finalist | None
    bound: dict[str, dict[str, float]]
    launches: tuple[Launch, ...]
    changes: list[Change]
    front: npt.NDArray[np.intp]
    assumptions: list[str]
    seconds: dict[str, float]
    partial: bool = False

    @property
    def finalists(self) -> list[Finalist]:
        """Those simulated: the ones that met the SLO by rank, then the others by attainment."""
        met = sorted((one for one in self.search.done if one.met), key=lambda one: rank(one, self.search.column))
        return met + sorted((one for one in self.search.done if not one.met), key=lambda one: -one.attainment)

    @property
    def nearest(self) -> Finalist | None:
        """Of those simulated, the one that comes nearest to the SLO."""
        return max(self.search.done, key=lambda one: one.attainment, default=None)

    def require(self) -> Finalist:
        """The winner.

        Raises:
            InfeasibleError: nothing meets the SLO or fits; with the nearest answer.

        """
        if self.winner is not None:
            return self.winner
        raise InfeasibleError("\n".join(self.infeasible()))

    def infeasible(self) -> list[str]:
        """What is missing, in sentences."""
        lines = [f"no deployment on {self.space.devices} devices meets what was asked"]
        if self.partial:
            lines = ["interrupted before a deployment was found that meets what was asked"]
        near = self.nearest
        if near is not None:
            slo = near.scenario.slo
            lines.append(f"  nearest: {near.name}: {miss_of(near, slo.percentile, limits_of(slo))}")
        fitting = [one for one in self.reasons if one.kind != "invalid" or one.pair]
        lines += [f"  {one.family}: {one.text}" for one in fitting[:3] if near is None]
        lines += [f"  {line}" for line in (nearest_limits(self.search), smallest_fit(self.search.families)) if line]
        lines += [f"  {change.what}: {change.choice}" for change in self.changes if change.choice]
        return lines


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)
    _begin: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._begin = now - self._begin, now


def plan(scenario: Scenario, told: Told = lambda _what, _done, _of: None) -> Plan:
    """Search the deployments of a scenario for the best that meets its SLO.

    Interrupted from the keyboard, the plan holds what is known so far and is marked partial.

    Raises:
        InputError: the study's axes or options cannot be used, or no combination of them is possible at all.

    """
    clock = _Clock()
    over = space(scenario)
    _check_objective(over)
    clock.lap("space")
    table = Table(over, told)
    try:
        table.fill()
        partial = False
    except KeyboardInterrupt:
        partial = True
    clock.lap("screening")
    known = table.families
    if not table.parts:
        return _without_candidates(over, known, table.beside, clock.seconds, partial)
    everything = joined(table.parts)
    search = Search(known, everything.take(np.flatnonzero(everything.load == 1.0)), over.options.objective)
    if search.column not in search.candidates.objectives:
        raise InputError(Problem(f"{over.options.objective!r} has no figure on some device", path="study.options"))
    dead = ruled_out(known, search.candidates)
    told(first_guess(search, dead, clock.seconds["screening"]), 0, 0)
    partial = partial or _simulate(search, dead, over.options.finalists, told)
    clock.lap("simulation")
    made = _finished(over, everything, search, dead, partial)
    clock.lap("reasons")
    return replace(made, reasons=[*made.reasons, *table.beside], seconds=clock.seconds)


def _check_objective(over: Space) -> None:
    if over.options.objective == "carbon" and any(v.scenario.power.carbon is None for v in over.variants):
        hint = "the grid's intensity, such as 300 gCO2e/kWh"
        raise InputError(Problem("is needed to lower carbon", path="power.carbon", hint=hint))


def _simulate(search: Search, dead: npt.NDArray[np.bool_], finalists: int, told: Told) -> bool:
    """Simulate up to so many candidates; whether it was interrupted."""
    try:
        while len(search.done) < finalists:
            late = len(search.done) >= max(finalists - RIVALS, 1)
            row = search.rival(dead) if late else None
            row = search.next(dead) if row is None else row
            if row is None:
                break
            search.simulate(row, lambda name: told(f"simulated {name}", len(search.done), finalists))
    except KeyboardInterrupt:
        return True
    return False


def _finished(over: Space, everything: Screened, search: Search, dead: npt.NDArray[np.bool_], partial: bool) -> Plan:
    winner = search.best()
    bound: dict[str, dict[str, float]] = {}
    shown: tuple[Launch, ...] = ()
    assumptions: list[str] = []
    if winner is not None:
        chosen = systems(winner.scenario)
        demand = search.families[int(search.candidates.family[winner.row])].variant.demand
        load = Load(demand.rate_per_s / winner.replicas, demand.load.prompt_tok, demand.load.output_tok)
        phases = pool_phases(chosen, load, max(winner.running, 1.0))
        bound = {name: one.bound for name, one in phases.items()}
        assumptions = list(background(winner.scenario, chosen, phases).assumptions)
        shown = launches(chosen)
    rates = [one.rates for family in search.families for one in family.instances.values()]
    money = [line for one in rates if one is not None for line in one.assumed]
    return Plan(
        space=over,
        search=search,
        dead=dead,
        reasons=reasons(search, dead, winner),
        winner=winner,
        bound=bound,
        launches=shown,
        changes=changes(everything, search, winner),
        front=front(search, dead),
        assumptions=list(dict.fromkeys([*assumptions, *money])),
        seconds={},
        partial=partial,
    )


def _without_candidates(
    over: Space, known: list[Family], beside: list[Reason], seconds: dict[str, float], partial: bool
) -> Plan:
    """Nothing fits or goes together."""
    blank = _nothing()
    search = Search(known, blank, over.options.objective)
    dead = np.zeros(0, bool)
    found = [*beside, *reasons(search, dead, None)]
    nowhere = np.zeros(0, np.intp)
    return Plan(over, search, dead, found, None, {}, (), [], nowhere, [], seconds, partial)


def _nothing() -> Screened:
    none: npt.NDArray[Any] = np.zeros(0)
    whole, wide = none.astype(np.int64), np.zeros((0, 3))
    words, flags = none.astype(np.str_), none.astype(np.bool_)
    columns = dict.fromkeys(OBJECTIVES.values(), none)
    return Screened(
        whole, whole, whole, whole, whole, words, none, none, whole, wide, wide, none, none, none, flags, words, columns
    )  # fmt: skip


def changes(everything: Screened, search: Search, winner: Finalist | None) -> list[Change]:
    """What the screening, corrected by the simulations, would choose under other loads and limits."""
    family = int(search.candidates.family[winner.row]) if winner is not None else -1
    found = []
    for load in LOADS[1:]:
        other = _again(search, everything.take(np.flatnonzero(everything.load == load)))
        found.append(
            _choice(f"at {load:g} times the load", other, ruled_out(search.families, other.candidates), family)
        )
    for factor in SLO_FACTORS:
        if np.isfinite(search.limits()).any():
            scaled = with_slo(search.families, factor)
            other = replace(_again(search, search.candidates), families=scaled)
            text = f"with {factor:g} times the SLO's limits"
            found.append(_choice(text, other, ruled_out(scaled, other.candidates), family))
    return found


def _again(search: Search, candidates: Screened) -> Search:
    """Another table under the corrections of the finalists."""
    return replace(search, candidates=candidates, corrections=search.by_family(), done=[], twins={})


def _choice(what: str, search: Search, dead: npt.NDArray[np.bool_], family: int) -> Change:
    ratio = search.ratio()
    likely = np.flatnonzero(~dead & (ratio <= 1))
    if not len(likely):
        return Change(what, "", False)
    c = search.candidates
    goal = np.array([float(f"{v:.9g}") for v in c.objectives[search.column][likely]])
    row = int(likely[np.lexsort((c.objectives["j_per_output_tok"][likely], goal))[0]])
    return Change(what, name_of(c, row, search.families[int(c.family[row])]), int(c.family[row]) == family)


def with_slo(families: list[Family], factor: float) -> list[Family]:
    """The families of variants whose SLO's limits are so many times as long."""
    variants = {id(family.variant): family.variant for family in families}
    scaled = {key: replace(variant, scenario=_longer(variant.scenario, factor)) for key, variant in variants.items()}
    return [
        replace(family, instance=replace(family.instance, variant=scaled[id(family.variant)])) for family in families
    ]


def _longer(scenario: Scenario, factor: float) -> Scenario:
    slo = scenario.slo
    terms = {n: limit * factor for n in ("ttft", "tpot", "e2e") if (limit := getattr(slo, n)) is not None}
    return scenario.model_copy(update={"slo": slo.model_copy(update=terms)})


def nearest_limits(search: Search) -> str:
    """By how much the SLO's limits would have to give way, by the screening."""
    ratio = search.ratio()
    if not np.isfinite(ratio).any():
        c = search.candidates
        if not len(c):
            return ""
        row = int(np.argmax(c.most_per_s))
        return f"nearest feasible: up to {c.most_per_s[row]:.3g} requests/s on {name_of(c, row, _family(search, row))}"
    row = int(np.nanargmin(np.where(np.isfinite(ratio), ratio, np.nan)))
    name = name_of(search.candidates, row, _family(search, row))
    if ratio[row] <= 1:
        return f"not simulated, but predicted to meet the SLO: {name}"
    return f"nearest feasible: with limits {ratio[row]:.2f} times as long, {name} (by the screening)"


def smallest_fit(families: list[Family]) -> str:
    """What would make the model fit, where it fits nowhere."""
    tried = [family.instance for family in families if family.instance.system is not None]
    if not tried or any(one.fits for one in tried):
        return ""
    nearest = min(tried, key=lambda one: one.missing_bytes)
    assert nearest.plan is not None
    try:
        check_fits(nearest.plan, nearest.made.model, nearest.made.setting, nearest.made.gpu.name)
    except DoesNotFitError as error:
        return f"nearest feasible: from {nearest.name}, {str(error).splitlines()[-1].strip()}"
    return ""


def _family(search: Search, row: int) -> Family:
    return search.families[int(search.candidates.family[row])]
