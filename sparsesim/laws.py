"""The laws of sparsity and of expert load, in plain NumPy, used by the kernels and by the simulator alike.

**Activations.** A gated FFN with ``F`` hidden neurons has, for each token, a mask of active neurons. A law
gives neuron ``j`` the frequency ``p_j``; the number of active neurons of a row ("nnz") or of a tile of a
row is then Poisson-binomial, computed here exactly (dynamic programming in a tile, FFT across tiles). Two
features of real models (arXiv 2603.23198) are added to it:

- *heavy-tailed rows*: row ``i`` has frequencies ``min(s_i * p_j, 1)`` with ``ln s_i ~ N(-sigma^2/2,
  sigma^2)``, so that the mean is kept (up to the clip) while the largest row may hold ten times the mean;
- *correlation along the sequence*: each neuron keeps its previous state with probability ``rho`` and is drawn
  afresh otherwise, a two-state Markov chain whose marginal stays ``p_j`` and whose lag-``n`` correlation is
  ``rho^n``.

**Expert load.** A router picks ``k`` of ``E`` experts without replacement. A law gives each expert a
popularity ``w_e`` (summing to 1); the pick is the top ``k`` of ``ln w_e + Gumbel noise`` (Plackett-Luce),
whose inclusion probabilities ``p_e`` (summing to ``k``) are computed by quadrature. ``b`` tokens then touch
``sum_e 1 - (1 - p_e)^b`` experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

ZIPF_EXPONENT = 0.9
"""Exponent of neuron frequency over rank in the published TwELL measurements."""
DEAD_SHARE = 0.3
"""Share of neurons never active: more than 30 % at L1 2e-5 (arXiv 2603.23198)."""
FREQUENCY_CEILING = 0.95
"""No neuron of a synthetic pattern is active for every token: frequencies are clipped here."""

_HERMITE_NODES = 24
_RACE_NODES = 160


# --------------------------------------------------------------------------------------- neuron frequencies


def uniform_frequencies(neurons: int, mean_nnz: float) -> Floats:
    """Give every neuron the frequency ``mean_nnz / neurons``: patterns independent of the neuron."""
    _check_mean_nnz(neurons, mean_nnz)
    return np.full(neurons, mean_nnz / neurons)


def zipf_frequencies(
    neurons: int,
    mean_nnz: float,
    exponent: float = ZIPF_EXPONENT,
    dead_share: float = DEAD_SHARE,
    ceiling: float = FREQUENCY_CEILING,
) -> Floats:
    """Frequencies ``~ rank^-exponent``, by falling rank, the last ``dead_share`` of ranks zero.

    The scale makes them sum to ``mean_nnz`` after clipping at ``ceiling``. Raises ``ValueError`` where the
    living neurons cannot carry that many non-zeros.
    """
    _check_mean_nnz(neurons, mean_nnz)
    if not 0.0 <= dead_share < 1.0 or not 0.0 < ceiling <= 1.0:
        raise ValueError(f"dead_share {dead_share} must be in [0, 1) and ceiling {ceiling} in (0, 1]")
    alive = neurons - int(dead_share * neurons)
    if mean_nnz > alive * ceiling:
        raise ValueError(f"mean_nnz {mean_nnz} is above {alive * ceiling:g}, all that {alive} living neurons carry")
    frequency = np.zeros(neurons)
    frequency[:alive] = _scale_to_sum(np.arange(1, alive + 1, dtype=np.float64) ** -exponent, mean_nnz, ceiling)
    return frequency


def shuffled(values: Floats, seed: int) -> Floats:
    """Put ``values`` in a random order fixed by ``seed`` (neurons of a model have no order of frequency)."""
    return np.asarray(np.random.default_rng(seed).permutation(values))


def _check_mean_nnz(neurons: int, mean_nnz: float) -> None:
    if neurons < 1 or not 0.0 <= mean_nnz <= neurons:
        raise ValueError(f"mean_nnz {mean_nnz} must lie between 0 and the number of neurons, {neurons}")


def _scale_to_sum(weights: Floats, total: float, ceiling: float) -> Floats:
    """Return ``min(c * weights, ceiling)``, ``c`` such that it sums to ``total``; weights must fall."""
    tail = np.cumsum(weights[::-1])[::-1]
    for clipped in range(len(weights)):
        scale = (total - clipped * ceiling) / tail[clipped]
        if scale * weights[clipped] <= ceiling:
            scaled: Floats = np.minimum(scale * weights, ceiling)
            return scaled
    return np.full(len(weights), ceiling)


# ------------------------------------------------------------------------------------------ activation law


@dataclass(frozen=True)
class ActivationLaw:
    """Which hidden neurons of a sparse FFN are active, token by token.

    ``frequency``: ``[F]``, the chance that a neuron is active for a token of unit scale. ``row_sigma``:
    standard deviation of the logarithm of a row's scale (0: all rows alike). ``correlation``: chance that a
    neuron keeps its state from one token to the next beyond coincidence (0: tokens independent).
    """

    frequency: Floats = field(repr=False)
    row_sigma: float = 0.0
    correlation: float = 0.0

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where a frequency is no probability or a parameter is out of range."""
        frequency = np.asarray(self.frequency, dtype=np.float64)
        if frequency.ndim != 1 or not np.all((frequency >= 0.0) & (frequency <= 1.0)):
            raise ValueError("frequency must be a vector of probabilities in [0, 1]")
        if self.row_sigma < 0.0 or not 0.0 <= self.correlation <= 1.0:
            raise ValueError(f"row_sigma {self.row_sigma} must be >= 0 and correlation {self.correlation} in [0, 1]")
        object.__setattr__(self, "frequency", frequency)

    @property
    def neurons(self) -> int:
        """Number of hidden neurons, F."""
        return len(self.frequency)


def row_scales(row_sigma: float) -> tuple[Floats, Floats]:
    """Scales of a row and their probabilities: Gauss-Hermite nodes of the log-normal of mean 1."""
    if row_sigma == 0.0:
        return np.ones(1), np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE_NODES)
    scales: Floats = np.exp(row_sigma * nodes - row_sigma**2 / 2.0)
    return scales, weights / weights.sum()


def expected_nnz(law: ActivationLaw) -> float:
    """Mean number of active neurons of a row."""
    scales, weights = row_scales(law.row_sigma)
    rows = np.minimum(scales[:, None] * law.frequency, 1.0)
    return float(weights @ rows.sum(axis=1))


def tile_nnz_distribution(law: ActivationLaw, tile: int) -> Floats:
    """Distribution of the number of active neurons in each tile of ``tile`` columns.

    ``[ceil(F/tile), tile+1]``.
    """
    scales, weights = row_scales(law.row_sigma)
    tiles = -(-law.neurons // tile)
    padded = np.zeros(tiles * tile)
    padded[: law.neurons] = law.frequency
    rows = np.minimum(scales[:, None, None] * padded.reshape(1, tiles, tile), 1.0)
    mixed: Floats = np.einsum("s,stn->tn", weights, poisson_binomial(rows))
    return mixed


def poisson_binomial(probability: Floats) -> Floats:
    """Distribution of a sum of independent Bernoulli variables along the last axis, ``[..., n] -> [...,
    n+1]``.

    Exact, O(n^2) per vector; meant for tiles of up to about a thousand.
    """
    n = probability.shape[-1]
    pmf = np.zeros((*probability.shape[:-1], n + 1))
    pmf[..., 0] = 1.0
    for index in range(n):
        p = probability[..., index, None]
        pmf[..., 1 : index + 2] = pmf[..., 1 : index + 2] * (1.0 - p) + pmf[..., : index + 1] * p
        pmf[..., 0] *= 1.0 - p[..., 0]
    return pmf


def row_nnz_distribution(law: ActivationLaw, tile: int = 256) -> Floats:
    """Distribution of a row's number of active neurons, ``[F+1]``: tiles by recursion, joined by FFT.

    Absolute error about 1e-15 per entry (rounding of the FFT), so tails below that are noise, cut at zero.
    """
    scales, weights = row_scales(law.row_sigma)
    length = law.neurons + 1
    padded = np.zeros(-(-law.neurons // tile) * tile)
    pmf = np.zeros(length)
    for scale, weight in zip(scales, weights, strict=True):
        padded[: law.neurons] = np.minimum(scale * law.frequency, 1.0)
        spectrum = np.fft.rfft(poisson_binomial(padded.reshape(-1, tile)), n=len(padded) + 1, axis=-1)
        pmf += weight * np.fft.irfft(spectrum.prod(axis=0), n=len(padded) + 1)[:length]
    positive = np.maximum(pmf, 0.0)
    return np.asarray(positive / positive.sum())


def nnz_quantile(pmf: Floats, quantile: float) -> int:
    """Smallest count whose cumulative probability reaches ``quantile`` (in (0, 1])."""
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile {quantile} must be in (0, 1]")
    return int(np.searchsorted(np.cumsum(pmf), quantile * (1.0 - 1e-12)))


def overflow_probability(law: ActivationLaw, tile: int, capacity: int) -> float:
    """Chance that a row has some tile with more than ``capacity`` active neurons.

    Exact for the law: tiles are independent given the row's scale.
    """
    scales, weights = row_scales(law.row_sigma)
    padded = np.zeros(-(-law.neurons // tile) * tile)
    padded[: law.neurons] = law.frequency
    rows = np.minimum(scales[:, None, None] * padded.reshape(1, -1, tile), 1.0)
    excess = np.minimum(poisson_binomial(rows)[..., capacity + 1 :].sum(axis=-1), 1.0)
    with np.errstate(divide="ignore"):
        log_fits = np.log1p(-excess).sum(axis=-1)
    return float(weights @ -np.expm1(log_fits))


def expected_union(law: ActivationLaw, tokens: int) -> float:
    """Mean number of neurons active for at least one of ``tokens`` consecutive tokens of unit scale.

    A neuron stays inactive through a step with ``rho + (1 - rho)(1 - p)``, hence
    ``sum_j 1 - (1 - p_j) (rho + (1 - rho)(1 - p_j))^(tokens - 1)``. Row scales are left out: they change it
    only through the clip and the spread of a token's mean.
    """
    if tokens < 1:
        raise ValueError(f"tokens {tokens} must be at least 1")
    idle = 1.0 - law.frequency
    stays_idle = law.correlation + (1.0 - law.correlation) * idle
    return float(np.sum(1.0 - idle * stays_idle ** (tokens - 1)))


def sample_masks(law: ActivationLaw, rows: int, rng: np.random.Generator) -> Bools:
    """Draw the masks of ``rows`` consecutive tokens: bool ``[rows, F]``.

    With correlation, a neuron keeps the *uniform draw* of the previous token, so heavy rows and correlated
    neurons combine: a token of larger scale has a superset of what it would have had.
    """
    draw = rng.random((rows, law.neurons), dtype=np.float32)
    if law.correlation > 0.0:
        fresh = rng.random((rows, law.neurons), dtype=np.float32) >= law.correlation
        fresh[0] = True
        last_fresh = np.maximum.accumulate(np.where(fresh, np.arange(rows)[:, None], 0), axis=0)
        draw = np.take_along_axis(draw, last_fresh, axis=0)
    scale = np.exp(rng.normal(-(law.row_sigma**2) / 2.0, law.row_sigma, size=(rows, 1)))
    mask: Bools = draw < np.minimum(scale * law.frequency, 1.0)
    return mask


# ---------------------------------------------------------------------------------------- expert popularity


def uniform_popularity(experts: int) -> Floats:
    """Every expert alike: ``[E]``, summing to 1."""
    return np.full(experts, 1.0 / experts)


def zipf_popularity(experts: int, exponent: float) -> Floats:
    """Popularity ``~ rank^-exponent``, by falling rank, summing to 1."""
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def dirichlet_popularity(experts: int, concentration: float, rng: np.random.Generator) -> Floats:
    """One draw of a symmetric Dirichlet: the smaller ``concentration``, the more uneven."""
    if concentration <= 0.0:
        raise ValueError(f"concentration {concentration} must be positive")
    return np.asarray(rng.dirichlet(np.full(experts, concentration)))


def hot_set_popularity(experts: int, hot: int, share: float, first: int = 0) -> Floats:
    """``hot`` experts from ``first`` on (wrapping) carry ``share`` of the popularity, the others the rest.

    ``hot=1`` is one hot expert; ``hot = experts per rank`` with ``first`` at a rank's start is a hot rank;
    moving ``first`` with time is a rotating hot spot; ``share=0`` gives experts (or a rank) without load.
    """
    if not 1 <= hot < experts or not 0.0 <= share <= 1.0:
        raise ValueError(f"hot {hot} must be in [1, {experts - 1}] and share {share} in [0, 1]")
    weights = np.full(experts, (1.0 - share) / (experts - hot))
    weights[(first + np.arange(hot)) % experts] = share / hot
    return weights


# ------------------------------------------------------------------------------------------------- routing


def inclusion_probabilities(popularity: Floats, top_k: int) -> Floats:
    """Chance of each expert to be among a token's ``top_k``, ``[E]`` summing to ``top_k``.

    Plackett-Luce as an exponential race: expert ``e`` arrives at rate ``w_e``, the first ``top_k`` win, so
    ``p_e = int w_e exp(-w_e t) P(fewer than k others arrived by t) dt``. The integral runs over
    ``v = exp(-t * mean rate)`` by Gauss-Legendre; the result is scaled by less than 1e-6 to sum to ``top_k``.
    """
    weights = _checked_popularity(popularity, top_k)
    experts = len(weights)
    if top_k == experts:
        return np.ones(experts)
    if top_k == 1:
        return weights
    times, time_weights = _race_quadrature(weights, top_k)
    arrived = -np.expm1(-np.outer(times, weights))
    fewer = _fewer_than_k_others(arrived, top_k)
    density = weights * np.exp(-np.outer(times, weights))
    inclusion = time_weights @ (density * fewer)
    return np.asarray(np.minimum(inclusion * (top_k / inclusion.sum()), 1.0))


def _checked_popularity(popularity: Floats, top_k: int) -> Floats:
    weights = np.asarray(popularity, dtype=np.float64)
    if weights.ndim != 1 or np.any(weights < 0.0) or weights.sum() <= 0.0:
        raise ValueError("popularity must be a vector of non-negative numbers with a positive sum")
    if not 1 <= top_k <= np.count_nonzero(weights):
        raise ValueError(f"top_k {top_k} must be between 1 and the {np.count_nonzero(weights)} experts with load")
    return np.asarray(weights / weights.sum())


def _race_quadrature(weights: Floats, top_k: int) -> tuple[Floats, Floats]:
    """Nodes and weights over arrival time, uniform in ``ln t`` around the time by which ``top_k`` arrived."""
    low, high = 1e-9 / weights.max(), 60.0 / np.sort(weights)[-top_k]
    nodes, gauss = np.polynomial.legendre.leggauss(_RACE_NODES)
    half = 0.5 * math.log(high / low)
    times = low * np.exp(half * (nodes + 1.0))
    return times, gauss * half * times


def _fewer_than_k_others(arrived: Floats, top_k: int) -> Floats:
    """``P(sum over others of Bernoulli(arrived) < k)`` for each time and expert, ``[T, E] -> [T, E]``."""
    times, experts = arrived.shape
    before = np.zeros((experts + 1, times, top_k))
    after = np.zeros((experts + 1, times, top_k))
    before[0, :, 0] = after[experts, :, 0] = 1.0
    for e in range(experts):
        before[e + 1] = _add_bernoulli(before[e], arrived[:, e])
        after[experts - e - 1] = _add_bernoulli(after[experts - e], arrived[:, experts - e - 1])
    at_most = np.cumsum(after[1:], axis=-1)[..., ::-1]
    return np.asarray(np.einsum("etk,etk->te", before[:-1], at_most))


def _add_bernoulli(pmf: Floats, p: Floats) -> Floats:
    """Distribution of a truncated count after one more Bernoulli variable, ``[T, k], [T] -> [T, k]``."""
    out = pmf * (1.0 - p[:, None])
    out[:, 1:] += pmf[:, :-1] * p[:, None]
    return out


def expected_experts_hit(inclusion: Floats, tokens: NDArray[np.int64] | int) -> Floats:
    """Mean number of experts that ``tokens`` (scalar or array) independent tokens touch."""
    batch = np.asarray(tokens, dtype=np.float64)
    idle = (1.0 - np.asarray(inclusion)) ** batch[..., None]
    return np.asarray(np.sum(1.0 - idle, axis=-1))


def sample_assignments(popularity: Floats, top_k: int, tokens: int, rng: np.random.Generator) -> Counts:
    """Draw the experts of each token, ``[tokens, top_k]``, without replacement (Gumbel top-k), best first."""
    weights = _checked_popularity(popularity, top_k)
    with np.errstate(divide="ignore"):
        scores = np.log(weights) + rng.gumbel(size=(tokens, len(weights)))
    order = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
    ranked = np.argsort(-np.take_along_axis(scores, order, axis=1), axis=1)
    return np.take_along_axis(order, ranked, axis=1).astype(np.int64)


def sample_counts(popularity: Floats, top_k: int, tokens: int, rng: np.random.Generator) -> Counts:
    """Draw the number of tokens of each expert, ``[E]``, summing to ``tokens * top_k``."""
    chunk = max(1, 4_000_000 // len(popularity))
    counts = np.zeros(len(popularity), dtype=np.int64)
    for start in range(0, tokens, chunk):
        picked = sample_assignments(popularity, top_k, min(chunk, tokens - start), rng)
        counts += np.bincount(picked.ravel(), minlength=len(popularity))
    return counts


# ------------------------------------------------------------------------------------------ balance metrics


def load_balance_coefficient(counts: NDArray[np.generic]) -> float:
    """``E * min(load) / total``: 1 is balanced, 0 leaves an expert idle."""
    loads = np.asarray(counts, dtype=np.float64)
    return float(len(loads) * loads.min() / loads.sum())


def max_over_mean(counts: NDArray[np.generic]) -> float:
    """Largest load over the mean load: 1 is balanced, E puts everything on one expert."""
    loads = np.asarray(counts, dtype=np.float64)
    return float(loads.max() / loads.mean())


def gini(counts: NDArray[np.generic]) -> float:
    """Gini coefficient of the loads: 0 is balanced, ``1 - 1/E`` puts everything on one expert."""
    loads = np.sort(np.asarray(counts, dtype=np.float64))
    n = len(loads)
    return float((2.0 * np.arange(1, n + 1) - n - 1.0) @ loads / (n * loads.sum()))


def padding_utilisation(counts: NDArray[np.generic], block: int) -> float:
    """Share of the rows of a grouped product that are real, each expert padded to a multiple of ``block``."""
    loads = np.asarray(counts, dtype=np.float64)
    return float(loads.sum() / (np.ceil(loads / block) * block).sum())
