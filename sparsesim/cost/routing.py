"""Tokens per expert on the busiest rank, as a deterministic function of the number of tokens.

Counts are drawn (fixed seed, many draws) at a ladder of token numbers; every draw is a layer with its own hot experts,
dealt to ranks in order (a load that says nothing of neighbours: at random), the rank with most rows is kept, its counts
sorted. The mean of each order statistic, interpolated
over tokens, stands for the load: an entry below one is the probability that this expert has a token at all. Nothing
is drawn in a step, so a leap over many steps equals its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load import ExpertLoad, read_load

Floats = npt.NDArray[np.float64]
DRAWS = 64
"""Draws a rung; the facts ask for 64 or more below 16 experts a rank."""
_EXACT_TOK = 64
_RUNGS = np.unique(np.round(1.5 ** np.arange(0, 33)).astype(int))
_SEED = 20231001


@dataclass(frozen=True, slots=True)
class RankLoad:
    """Sorted expected counts [rungs, local experts] of the busiest rank over a ladder of tokens."""

    tokens: Floats
    counts: Floats

    def at(self, tokens: Floats) -> Floats:
        """Counts [..., local experts] for token numbers of any shape, in proportion beyond the ladder."""
        t = np.asarray(tokens, float)
        i = np.clip(np.searchsorted(self.tokens, t) - 1, 0, len(self.tokens) - 2)
        low, high = self.tokens[i], self.tokens[i + 1]
        weight = np.clip((t - low) / (high - low), 0.0, None)[..., None]
        inside = self.counts[i] * (1 - weight) + self.counts[i + 1] * weight
        below = self.counts[0] * np.maximum(t, 0.0)[..., None]
        return np.asarray(np.where(t[..., None] < self.tokens[0], below, np.maximum(inside, 0.0)))


@lru_cache(maxsize=256)
def rank_load(load: str, experts: int, top_k: int, ep: int) -> RankLoad:
    """Load of the busiest of `ep` ranks, experts dealt evenly; `load` is an `ExpertLoad` as a word.

    Raises:
        InputError: no such load, more experts chosen than there are, or experts that ep does not divide.

    """
    if top_k > experts:
        raise InputError(Problem(f"top_k {top_k} is more than the {experts} experts"))
    if experts % ep:
        raise InputError(Problem(f"{experts} experts cannot be dealt evenly to ep {ep} ranks"))
    drawn = _drawn(read_load(load), experts, top_k)
    rng = np.random.default_rng(_SEED)
    rows = [np.zeros(experts // ep)]
    rows += [_rung(int(t), drawn, top_k, ep, rng) for t in _RUNGS]
    return RankLoad(np.concatenate([[0.0], _RUNGS]), np.stack(rows))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Popularity and inclusion probability in each draw, `[DRAWS, experts]`; whether the order of experts is chance."""

    weights: Floats
    inclusion: Floats
    exchangeable: bool


def _drawn(load: ExpertLoad, experts: int, top_k: int) -> _Drawn:
    weights = load.sampled(experts, DRAWS)
    if load.exchangeable:
        weights = np.sort(weights, axis=1)[:, ::-1]
    distinct, index = np.unique(weights, axis=0, return_inverse=True)
    try:
        inclusion = np.stack([laws.inclusion_probabilities(row, top_k) for row in distinct])
    except ValueError as error:
        raise InputError(Problem(f"load {load.word()!r}: {error}")) from None
    return _Drawn(weights, inclusion[index.ravel()], load.exchangeable)


def _rung(tokens: int, drawn: _Drawn, top_k: int, ep: int, rng: np.random.Generator) -> Floats:
    inclusion, experts = drawn.inclusion, drawn.weights.shape[1]
    if top_k == experts:
        return np.full(experts // ep, float(tokens))
    if tokens <= _EXACT_TOK:
        counts = np.stack([laws.sample_counts(w, top_k, tokens, rng) for w in drawn.weights]).astype(float)
    else:
        spread = np.sqrt(tokens * inclusion * (1 - inclusion))
        counts = np.clip(tokens * inclusion + spread * rng.standard_normal((DRAWS, experts)), 0, tokens)
    counts *= tokens * top_k / counts.sum(axis=1, keepdims=True)
    dealt = (rng.permuted(counts, axis=1) if drawn.exchangeable else counts).reshape(DRAWS, ep, experts // ep)
    hottest = dealt[np.arange(DRAWS), dealt.sum(axis=2).argmax(axis=1)]
    return np.asarray(np.sort(hottest, axis=1)[:, ::-1].mean(axis=0))
