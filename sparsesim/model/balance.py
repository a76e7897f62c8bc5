"""How even an expert load is, and what unevenness costs: padding, dropped tokens, and re-placing hot experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load import ExpertLoad
from sparsesim.model.ranks import DRAWS, expert_counts

Floats = NDArray[np.float64]

MEASURES = (
    "load_balance_coefficient",
    "max_over_mean",
    "gini",
    "padding_utilisation",
    "padding_overhead",
    "dropped_share",
    "idle_experts",
)


@dataclass(frozen=True, slots=True)
class Balance:
    """Measures of one step's counts.

    load_balance_coefficient: experts * least / total, 1 is balanced. padding_utilisation: real rows over rows padded to
    whole blocks per expert; padding_overhead: padded rows beyond the real ones over the real ones. dropped_share: of
    the rows that a capacity of capacity_factor * mean per expert turns away.
    """

    load_balance_coefficient: float
    max_over_mean: float
    gini: float
    padding_utilisation: float
    padding_overhead: float
    dropped_share: float
    idle_experts: float


def balance(counts: Floats, block: int = 128, capacity_factor: float = math.inf) -> Balance:
    """Measures of the tokens per expert, `[experts]`.

    Raises:
        InputError: no tokens, a block below one, or a capacity that is not positive.

    """
    if counts.sum() <= 0 or block < 1 or capacity_factor <= 0:
        raise InputError(
            Problem(f"balance of {counts.sum():g} rows in blocks of {block} at capacity factor {capacity_factor}")
        )
    utilisation = laws.padding_utilisation(counts, block)
    return Balance(
        laws.load_balance_coefficient(counts),
        laws.max_over_mean(counts),
        laws.gini(counts),
        utilisation,
        1.0 / utilisation - 1.0,
        dropped_share(counts, capacity_factor),
        float(np.count_nonzero(counts < 0.5)),
    )


def dropped_share(counts: Floats, capacity_factor: float) -> float:
    """Share of the rows above an expert's capacity, ceil(capacity_factor * mean rows) (GShard, arXiv 2006.16668)."""
    if math.isinf(capacity_factor):
        return 0.0
    capacity = math.ceil(capacity_factor * float(counts.mean()))
    return float(np.maximum(counts - capacity, 0.0).sum() / counts.sum())


def balance_distribution(
    load: ExpertLoad | str,
    experts: int,
    top_k: int,
    tokens: int,
    block: int = 128,
    capacity_factor: float = math.inf,
    draws: int = DRAWS,
) -> dict[str, Floats]:
    """Every measure over steps and layers, by name, sorted, `[draws]` each."""
    each = [balance(row, block, capacity_factor) for row in expert_counts(tokens, experts, top_k, load, draws)]
    return {name: np.sort([getattr(one, name) for one in each]) for name in MEASURES}


@dataclass(frozen=True, slots=True)
class Replacement:
    """What re-placing experts does to the busiest rank, and what it moves.

    still: mean of the busiest rank over the mean rank with the first placement kept; moving: with a new placement every
    so many steps, made from the popularity of the interval before. moved_experts: copies of experts sent per new
    placement; moved_bytes: their weights.
    """

    still: float
    moving: float
    moved_experts: float
    moved_bytes: float


def replacement(
    load: ExpertLoad,
    experts: int,
    place: Callable[[Floats], Floats],
    every: int,
    intervals: int = 16,
    expert_bytes: float = 0.0,
    layer: int = 0,
) -> Replacement:
    """Re-place the experts of a layer every `every` steps on what the last interval showed (EPLB).

    `place` gives the share of each expert's tokens that each rank serves, `[ranks, experts]`, for loads `[experts]`;
    popularities are taken in the middle of each interval, without the noise of routing.

    Raises:
        InputError: fewer than two intervals.

    """
    if intervals < 2 or every < 1:
        raise InputError(Problem(f"{intervals} intervals of {every} steps", hint="at least 2 of at least 1"))
    seen = [load.popularity(experts, layer, every * i + every // 2) for i in range(intervals)]
    placed = [place(popularity) for popularity in seen]
    still = [_skew(popularity, placed[0]) for popularity in seen[1:]]
    moving = [_skew(now, before) for now, before in zip(seen[1:], placed[:-1], strict=True)]
    moved = [float(np.count_nonzero((new > 0) & (old == 0))) for old, new in pairwise(placed)]
    mean = float(np.mean(moved))
    return Replacement(float(np.mean(still)), float(np.mean(moving)), mean, mean * expert_bytes)


def _skew(popularity: Floats, share: Floats) -> float:
    ranks = share @ popularity
    return float(ranks.max() / ranks.mean())
