"""Tokens of every expert, and of the busiest rank's experts, drawn from an expert load.

Draws are deterministic (fixed seed): each takes the popularity of another layer at another step, and routes the tokens.
Up to `SAMPLED_TOK` tokens are routed one by one. Beyond, with p the inclusion probabilities and v = T p (1 - p), one is

    c = T p + y - d (sum y) / (sum d),     y independent, mean 0, variance d,     d - d^2 / (sum d) = v

which sums to T k, gives every expert the variance v and experts e, f the covariance -d_e d_f / sum d (Hajek 1964, for
the conditional Bernoulli design); y are binomial counts less their mean, stretched to the variance d.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.load import ExpertLoad, read_load

Floats = NDArray[np.float64]

DRAWS = 64
"""Facts on kernel forms ask for 64 or more where a rank holds fewer than 16 experts."""
SAMPLED_TOK = 64
_SEED = 7
_DIGITS = 12
_ROUNDS = 50
_SMALL = 1e-300
_LEAST = 0.5
"""No expert has more than half of sum d: with two experts each has exactly half."""


@lru_cache(maxsize=512)
def _popularities(load: ExpertLoad, experts: int, top_k: int, draws: int) -> tuple[Floats, Floats]:
    """Popularity and inclusion probability of every draw, `[draws, experts]` each.

    Draws that differ only in which experts are hot have their probabilities computed once.
    """
    weights = load.sampled(experts, draws)
    order = np.argsort(weights, axis=1)
    ranked = np.take_along_axis(weights, order, axis=1)
    unique, inverse = np.unique(ranked.round(_DIGITS), axis=0, return_inverse=True)
    probability = np.stack([laws.inclusion_probabilities(row, top_k) for row in unique])
    inclusion = np.empty_like(weights)
    np.put_along_axis(inclusion, order, probability[inverse.ravel()], axis=1)
    return weights, inclusion


@lru_cache(maxsize=4096)
def _counts(load: ExpertLoad, experts: int, top_k: int, tokens: int, draws: int) -> Floats:
    rng = np.random.default_rng((_SEED, tokens, draws))
    weights, inclusion = _popularities(load, experts, top_k, draws)
    if tokens <= SAMPLED_TOK:
        return np.stack([laws.sample_counts(w, top_k, tokens, rng) for w in weights]).astype(float)
    return _drawn(tokens, np.minimum(inclusion, 1.0), rng)


def _drawn(tokens: int, inclusion: Floats, rng: np.random.Generator) -> Floats:
    """Counts of the formula above, `[draws, experts]`; what the bounds 0 and tokens cut off goes to the others."""
    mean = tokens * inclusion
    variance = mean * (1.0 - inclusion)
    wide = _unconditioned(variance)
    stretch = np.sqrt(np.divide(wide, variance, out=np.ones_like(wide), where=variance > 0))
    free = (rng.binomial(tokens, inclusion) - mean) * stretch
    whole = np.maximum(wide.sum(axis=1, keepdims=True), _SMALL)
    counts = np.clip(mean + free - wide * free.sum(axis=1, keepdims=True) / whole, 0.0, tokens)
    room = counts * (tokens - counts)
    missing = mean.sum(axis=1, keepdims=True) - counts.sum(axis=1, keepdims=True)
    return np.asarray(counts + missing * room / np.maximum(room.sum(axis=1, keepdims=True), _SMALL))


def _unconditioned(variance: Floats) -> Floats:
    """The d of the formula above, by fixed-point iteration of d = v / (1 - d / sum d)."""
    wide = variance.copy()
    for _ in range(_ROUNDS):
        share = wide / np.maximum(wide.sum(axis=1, keepdims=True), _SMALL)
        wide = variance / np.maximum(1.0 - share, _LEAST)
    return wide


def expert_counts(
    tokens: int, experts: int, top_k: int, load: ExpertLoad | str = "uniform", draws: int = DRAWS
) -> Floats:
    """Tokens of every expert in every draw, `[draws, experts]`; each draw sums to tokens * top_k.

    Raises:
        InputError: more experts chosen than there are, or a load that does not go with them.

    """
    if not 1 <= top_k <= experts:
        raise InputError(Problem(f"top_k {top_k} must be between 1 and the {experts} experts"))
    if tokens < 1:
        return np.zeros((draws, experts))
    return _counts(read_load(load), experts, top_k, int(tokens), draws)


def dealt(experts: int, ep: int) -> Floats:
    """Share of each expert's tokens that each rank serves, `[ep, experts]`: experts dealt to ranks in order.

    Raises:
        InputError: ep does not divide the experts.

    """
    if experts % ep:
        raise InputError(Problem(f"{experts} experts cannot be dealt evenly to ep {ep} ranks"))
    return np.repeat(np.eye(ep), experts // ep, axis=1)


def rank_counts(
    tokens: int,
    experts: int,
    top_k: int,
    ep: int,
    load: ExpertLoad | str = "uniform",
    share: Floats | None = None,
    draws: int = DRAWS,
) -> Floats:
    """Tokens of the experts of each draw's busiest rank, sorted, `[draws, slots]`.

    `share[r, e]` is the part of expert e's tokens that rank r serves (a placement's; by default experts are dealt in
    order); slots are as many as the rank with most experts has, zeros where a rank has fewer.
    """
    counts = expert_counts(tokens, experts, top_k, load, draws)
    served = dealt(experts, ep) if share is None else share
    hottest = (counts @ served.T).argmax(axis=1)
    slots = int((served > 0).sum(axis=1).max())
    return np.asarray(np.sort(counts * served[hottest], axis=1)[:, ::-1][:, :slots])


def rank_skew(
    tokens: int,
    experts: int,
    top_k: int,
    ep: int,
    load: ExpertLoad | str = "uniform",
    share: Floats | None = None,
    draws: int = DRAWS,
) -> Floats:
    """Rows of the busiest rank over the mean rank's in every draw, sorted, `[draws]`: its distribution."""
    rows = rank_counts(tokens, experts, top_k, ep, load, share, draws).sum(axis=1)
    return np.sort(rows * ep / (tokens * top_k))
