"""How likely a token visits a rank or a node, from the chance of each expert to be among its top k.

Routers pick exactly k of E experts. Given only the inclusion probabilities p_e (summing to k), the least assuming
distribution of the set is the conditional Bernoulli (maximum entropy) one: P(T) ~ prod of odds w_e over T, so that
with the generating function G(x) = prod_e (1 + w_e x)

    P(no expert of S chosen) = [x^k] prod_{e not in S} (1 + w_e x) / [x^k] G(x)

which is the hypergeometric law when all p_e are equal and p_e itself when S is one expert. An expert of several copies
counts in S by the share m of its tokens that S serves: (1 + w_e (1 - m) x). The odds are found from the p_e by
fixed-point iteration. Group-limited routing (the k experts lie in L of the groups) keeps the odds and takes the
coefficient of y^L x^k in prod_g (1 + y G_g(x)): that changes how often experts are chosen (`chosen`), since not every
set of inclusion probabilities can be had under a limit (five groups cannot all hold an expert that is always chosen
when four may be visited).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsesim.cost.network.placement import Assignment
from sparsesim.errors import InputError, Problem

Floats = NDArray[np.float64]

_ALWAYS = 1.0 - 1e-9
"""Inclusion probabilities are kept below this: an expert that is always chosen has infinite odds."""
_NEVER = 1e-300
_TOLERANCE = 1e-9
_ITERATIONS = 200
"""Six or seven suffice for zipf up to 1.2."""
_CACHED = 32


@dataclass(frozen=True, eq=False)
class Routing:
    """Inclusion probability of every expert without a limit, `[experts]`, and the limit on groups (0: none).

    Groups are equal runs of experts in order, as in DeepSeek-V3 (8 groups, at most 4 visited).
    """

    inclusion: Floats
    top_k: int
    groups: int = 1
    group_limit: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no routing."""
        experts, problems = len(self.inclusion), []
        total = float(np.sum(self.inclusion))
        if not 1 <= self.top_k <= experts:
            problems.append(Problem(f"top_k {self.top_k} must be between 1 and the {experts} experts"))
        if (
            abs(total - self.top_k) > 1e-3 * self.top_k
            or np.any(self.inclusion < 0)
            or np.any(self.inclusion > 1 + 1e-9)
        ):
            problems.append(
                Problem(f"inclusion probabilities sum to {total:.4g} and must be in [0, 1], sum {self.top_k}")
            )
        if self.groups < 1 or experts % self.groups:
            problems.append(Problem(f"{experts} experts do not divide into {self.groups} groups"))
        elif not 0 <= self.group_limit <= self.groups:
            problems.append(
                Problem(f"group_limit {self.group_limit} must be between 0 (none) and {self.groups} groups")
            )
        elif self.group_limit and self.group_limit * (experts // self.groups) < self.top_k:
            problems.append(Problem(f"{self.group_limit} groups hold fewer than top_k {self.top_k} experts"))
        if problems:
            raise InputError(problems)

    @property
    def limited(self) -> bool:
        """Whether the limit on groups forbids anything."""
        return 0 < self.group_limit < min(self.groups, self.top_k)

    @cached_property
    def odds(self) -> Floats:
        """Odds w_e that give the inclusion probabilities where no limit binds."""
        target = np.minimum(self.inclusion * (self.top_k / np.sum(self.inclusion)), _ALWAYS)
        odds = target / (1.0 - target)
        one_each = np.eye(len(target))
        for _ in range(_ITERATIONS):
            found = np.clip(1.0 - self._miss(one_each, odds, 1), _NEVER, _ALWAYS)
            odds = odds * (target / found) * (1.0 - found) / (1.0 - target)
            if np.max(np.abs(target - found)) < _TOLERANCE:
                return odds
        raise InputError(
            Problem(f"inclusion probabilities {self.inclusion.min():.3g} to {self.inclusion.max():.3g} have no odds")
        )

    @cached_property
    def chosen(self) -> Floats:
        """How often each expert is chosen, the limit included: `[experts]`, summing to top_k."""
        if not self.limited:
            return self.inclusion
        return self.hits(np.eye(len(self.inclusion)))

    def hits(self, share: Floats) -> Floats:
        """Chance that a token visits each set, `[sets]`; `share[s, e]` is what set s serves of expert e's tokens."""
        if share.shape[0] == 1:
            return np.ones(1)
        return np.asarray(np.clip(1.0 - self._miss(share, self.odds, self.groups if self.limited else 1), 0.0, 1.0))

    def _miss(self, share: Floats, odds: Floats, groups: int) -> Floats:
        """Chance that a token visits nothing of each set."""
        rest = self._coefficient(odds * (1.0 - share), groups)
        return np.asarray(rest / self._coefficient(odds[None, :], groups))

    def _coefficient(self, odds: Floats, groups: int) -> Floats:
        """`[x^k]` of the generating function, or `[y^L x^k]`, of every row of odds `[sets, experts]`."""
        series = _products(odds.reshape(len(odds), groups, -1), self.top_k)
        return series[:, 0, self.top_k] if groups == 1 else _limited(series, self.group_limit)


def _products(odds: Floats, top_k: int) -> Floats:
    """Coefficients of prod_e (1 + w_e x) up to x^k, `[sets, groups, experts] -> [sets, groups, k+1]`."""
    series = np.zeros((top_k + 1, *odds.shape[:2]))
    series[0] = 1.0
    for w in np.moveaxis(odds, 2, 0).copy():
        series[1:] += w * series[:-1]
    return np.moveaxis(series, 0, 2)


def _limited(series: Floats, limit: int) -> Floats:
    """`[y^L x^k]` of prod_g (1 + y G_g(x)), `[sets, groups, k+1] -> [sets]`."""
    sets, groups, width = series.shape
    joint = np.zeros((limit + 1, width, sets))
    joint[0, 0] = 1.0
    for g in range(groups):
        grown = joint.copy()
        for power in range(width):
            grown[1:, power:] += series[:, g, power] * joint[:-1, : width - power]
        joint = grown
    return np.asarray(joint[limit, width - 1])


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """Per token: mean copies to each rank (per expert), chance to visit each rank and each node."""

    copies: Floats
    rank: Floats
    node: Floats


_cache: OrderedDict[tuple[bytes, bytes, tuple[int, ...]], Visits] = OrderedDict()


def visits(routing: Routing, assignment: Assignment, gpus_per_node: int) -> Visits:
    """Where a token goes, for routing over a placement; the last few results are kept.

    Raises:
        InputError: routing and placement count different experts, or the ranks do not fill the nodes.

    """
    if assignment.experts != len(routing.inclusion):
        raise InputError(Problem(f"placement of {assignment.experts} experts for a router of {len(routing.inclusion)}"))
    sizes = (routing.top_k, routing.groups, routing.group_limit, gpus_per_node)
    key = (routing.inclusion.tobytes(), assignment.key, sizes)
    if key not in _cache:
        _cache[key] = _visits(routing, assignment, gpus_per_node)
        if len(_cache) > _CACHED:
            _cache.popitem(last=False)
    return _cache[key]


def _visits(routing: Routing, assignment: Assignment, gpus_per_node: int) -> Visits:
    nodes = assignment.by_node(min(gpus_per_node, assignment.ranks))
    return Visits(assignment.rank_load(routing.chosen), routing.hits(assignment.share), routing.hits(nodes.share))
