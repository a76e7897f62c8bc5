"""The screening as a table that grows: every variant's layouts, then its pairs of pools."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparsesim.study.planning.finalists import Search, name_of
from sparsesim.study.planning.instances import Instance, instances, smallest_pair
from sparsesim.study.planning.money import LABELS
from sparsesim.study.planning.pools import pools
from sparsesim.study.planning.reasons import Reason, ruled_out
from sparsesim.study.planning.screen import Family, Screened, joined, screen
from sparsesim.study.planning.sites import POOLS, Role
from sparsesim.study.planning.space import Space, Variant

Told = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and of how much (0: not known)."""
EARLY_S = 0.6
"""Seconds of screening after which the best so far is told: with Python's start, within two seconds."""


@dataclass
class Table:
    """The screening as it grows: families, their candidates, and reasons that are of no family."""

    over: Space
    told: Told
    families: list[Family] = field(default_factory=list)
    parts: list[Screened] = field(default_factory=list)
    beside: list[Reason] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)
    _early: bool = False

    def fill(self) -> None:
        """Screen every variant: first replicas that do both phases, then pools of the same instances."""
        for variant in self.over.variants:
            known: list[tuple[Instance, tuple[Role, ...]]] = []
            for one, roles in instances(self.over, variant):
                known.append((one, roles))
                if "serve" in roles or not one.fits:
                    family = Family(len(self.families), one)
                    self._add([family], screen(self.over, family) if "serve" in roles else None)
            if POOLS[0] in self.over.roles:
                self._pair(variant, known)

    def _pair(self, variant: Variant, known: list[tuple[Instance, tuple[Role, ...]]]) -> None:
        by_role: dict[Role, list[Instance]] = {role: [one for one, own in known if role in own] for role in POOLS}
        found, table = pools(self.over, variant, by_role, len(self.families))
        if table is None:
            name = f"{variant.name}: pools" if variant.name else "pools"
            self.beside.append(Reason(name, "invalid", no_pair(self.over, known), math.inf, 0, pair=True))
        self._add(found, table)

    def _add(self, found: list[Family], table: Screened | None) -> None:
        self.families += found
        self.parts += [table] if table is not None else []
        self.told("screening", sum(map(len, self.parts)), 0)
        seconds = time.perf_counter() - self._begin
        if self.parts and not self._early and seconds > EARLY_S:
            self._early = True
            self.told(f"so far: {_guess(self.families, self.parts, self.over, seconds)}", 0, 0)


def no_pair(over: Space, known: list[tuple[Instance, tuple[Role, ...]]]) -> str:
    """Why there are no two pools."""
    least = smallest_pair(known)
    if least is None:
        return "no replica of one of the pools fits its devices"
    if least > over.devices:
        return f"the smallest prefill and decode replicas take {least} devices, {over.devices} are there"
    return "no numbers of replicas of the axes go together, or nothing links the devices (deployment.transfer)"


def _guess(known: list[Family], tables: list[Screened], over: Space, seconds: float) -> str:
    """What is best of the layouts screened so far."""
    everything = joined(tables)
    search = Search(known, everything.take(np.flatnonzero(everything.load == 1.0)), over.options.objective)
    return first_guess(search, ruled_out(known, search.candidates), seconds)


def first_guess(search: Search, dead: npt.NDArray[np.bool_], seconds: float) -> str:
    """The screening in a sentence."""
    row = search.next(dead)
    count = f"{len(search.candidates):,} candidates of {len(search.families)} layouts screened in {seconds:.2f} s"
    if row is None:
        return f"{count}; none can meet the SLO"
    label, unit = LABELS[search.column]
    value = search.candidates.objectives[search.column][row]
    name = name_of(search.candidates, row, search.families[int(search.candidates.family[row])])
    return f"{count}; first guess: {name} ({label.lower()} {value:.4g} {unit})".replace(" )", ")")
