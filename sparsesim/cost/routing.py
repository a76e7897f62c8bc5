"""Tokens per expert on the busiest rank, as a deterministic function of the number of tokens.

Counts are drawn (fixed seed, many draws) at a ladder of token numbers; in each draw the experts are dealt to ranks
in random order, the rank with most rows is kept, its counts sorted. The mean of each order statistic, interpolated
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

Floats = npt.NDArray[np.float64]
DRAWS = 64
"""Draws a rung; the facts ask for 64 or more below 16 experts a rank."""
_EXACT_TOK = 64
_RUNGS = np.unique(np.round(1.5 ** np.arange(0, 33)).astype(int))
_SEED = 20231001
DEFAULT_ZIPF = 1.0
"""Exponent of `zipf` where none is written."""


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


def popularity(load: str, experts: int) -> Floats:
    """Popularity of each expert under a load written as text: `uniform`, `zipf`, `zipf:0.8`, `hot:3`.

    `hot:3` is one expert three times as popular as the rest.

    Raises:
        InputError: the text names no load.

    """
    kind, _, number = load.replace("(", ":").replace("-", ":", 1).rstrip(")").partition(":")
    try:
        if kind == "uniform":
            return laws.uniform_popularity(experts)
        if kind == "zipf":
            return laws.zipf_popularity(experts, float(number or DEFAULT_ZIPF))
        if kind == "hot":
            factor = float(number)
            return laws.hot_set_popularity(experts, 1, factor / (factor + experts - 1))
    except ValueError as error:
        raise InputError(Problem(f"load {load!r}: {error}")) from None
    raise InputError(Problem(f"unknown expert load {load!r}", hint="uniform, zipf, zipf:EXPONENT or hot:FACTOR"))


@lru_cache(maxsize=256)
def rank_load(load: str, experts: int, top_k: int, ep: int) -> RankLoad:
    """Load of the busiest of `ep` ranks, experts dealt evenly.

    Raises:
        InputError: more experts chosen than there are, or experts that ep does not divide.

    """
    if top_k > experts:
        raise InputError(Problem(f"top_k {top_k} is more than the {experts} experts"))
    if experts % ep:
        raise InputError(Problem(f"{experts} experts cannot be dealt evenly to ep {ep} ranks"))
    weights = popularity(load, experts)
    inclusion = laws.inclusion_probabilities(weights, top_k)
    rng = np.random.default_rng(_SEED)
    rows = [np.zeros(experts // ep)]
    rows += [_rung(int(t), weights, inclusion, top_k, ep, rng) for t in _RUNGS]
    return RankLoad(np.concatenate([[0.0], _RUNGS]), np.stack(rows))


def _rung(tokens: int, weights: Floats, inclusion: Floats, top_k: int, ep: int, rng: np.random.Generator) -> Floats:
    experts = len(weights)
    if top_k == experts:
        return np.full(experts // ep, float(tokens))
    if tokens <= _EXACT_TOK:
        counts = np.stack([laws.sample_counts(weights, top_k, tokens, rng) for _ in range(DRAWS)]).astype(float)
    else:
        spread = np.sqrt(tokens * inclusion * (1 - inclusion))
        counts = np.clip(tokens * inclusion + spread * rng.standard_normal((DRAWS, experts)), 0, tokens)
    counts *= tokens * top_k / counts.sum(axis=1, keepdims=True)
    dealt = rng.permuted(counts, axis=1).reshape(DRAWS, ep, experts // ep)
    hottest = dealt[np.arange(DRAWS), dealt.sum(axis=2).argmax(axis=1)]
    return np.asarray(np.sort(hottest, axis=1)[:, ::-1].mean(axis=0))
