"""Activation laws: counts, tiles, overflow, unions and samples against hand arithmetic and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim import laws


def test_zipf_frequencies_sum_to_the_mean_nnz_and_leave_three_tenths_dead() -> None:
    p = laws.zipf_frequencies(5632, 29.0)
    assert p.sum() == pytest.approx(29.0, rel=1e-12)
    assert np.count_nonzero(p) == 5632 - 1689
    assert p.max() <= 0.95


def test_hottest_256_of_5632_carry_about_55_percent_as_published() -> None:
    p = laws.zipf_frequencies(5632, 29.0)
    # facts: 'about 55 %'; the exact share depends on where the hottest few are clipped.
    assert p[:256].sum() / p.sum() == pytest.approx(0.55, abs=0.03)


def test_unclipped_zipf_follows_the_power_of_the_rank() -> None:
    p = laws.zipf_frequencies(1000, 1.0, exponent=0.5, dead_share=0.0)
    assert p[3] / p[0] == pytest.approx(4.0**-0.5)


def test_more_nonzeros_than_the_living_neurons_carry_is_an_error() -> None:
    with pytest.raises(ValueError, match="living"):
        laws.zipf_frequencies(100, 80.0)


def test_poisson_binomial_of_equal_chances_is_binomial() -> None:
    pmf = laws.poisson_binomial(np.full(10, 0.3))
    binomial = [math.comb(10, n) * 0.3**n * 0.7 ** (10 - n) for n in range(11)]
    np.testing.assert_allclose(pmf, binomial, rtol=1e-12)


def test_poisson_binomial_of_two_by_hand() -> None:
    np.testing.assert_allclose(laws.poisson_binomial(np.array([0.5, 0.2])), [0.4, 0.5, 0.1])


def test_row_distribution_is_the_binomial_across_tiles() -> None:
    pmf = laws.row_nnz_distribution(laws.ActivationLaw(laws.uniform_frequencies(40, 4.0)), tile=16)
    binomial = [math.comb(40, n) * 0.1**n * 0.9 ** (40 - n) for n in range(41)]
    np.testing.assert_allclose(pmf, binomial, atol=1e-14)


@given(sigma=st.sampled_from([0.0, 0.3, 0.6]), mean=st.floats(0.5, 60.0))
@settings(max_examples=12, deadline=None)
def test_tile_and_row_distributions_have_the_expected_nnz(sigma: float, mean: float) -> None:
    law = laws.ActivationLaw(laws.zipf_frequencies(512, mean), row_sigma=sigma)
    rows = laws.row_nnz_distribution(law, tile=128)
    tiles = laws.tile_nnz_distribution(law, tile=128)
    assert rows @ np.arange(513) == pytest.approx(laws.expected_nnz(law), rel=1e-9)
    assert float((tiles @ np.arange(129)).sum()) == pytest.approx(laws.expected_nnz(law), rel=1e-9)


def test_overflow_of_two_tiles_by_hand() -> None:
    # Two tiles of two neurons at 1/2, one slot each: a tile overflows with 1/4, the row with 1 - (3/4)^2.
    law = laws.ActivationLaw(np.full(4, 0.5))
    assert laws.overflow_probability(law, tile=2, capacity=1) == pytest.approx(7.0 / 16.0)
    assert laws.overflow_probability(law, tile=2, capacity=2) == 0.0


def test_heavy_rows_raise_overflow_at_the_same_mean() -> None:
    p = laws.uniform_frequencies(512, 29.0)
    even, heavy = laws.ActivationLaw(p), laws.ActivationLaw(p, row_sigma=1.0)
    assert laws.expected_nnz(heavy) == pytest.approx(29.0, rel=0.005)  # the clip costs a little
    assert laws.overflow_probability(heavy, 256, 31) > 10 * laws.overflow_probability(even, 256, 31)


def test_union_of_independent_tokens_by_hand() -> None:
    # 10 neurons at 1/2: after 3 tokens 1/8 of them were never active.
    law = laws.ActivationLaw(np.full(10, 0.5))
    assert laws.expected_union(law, 3) == pytest.approx(8.75)
    frozen = laws.ActivationLaw(np.full(10, 0.5), correlation=1.0)
    assert laws.expected_union(frozen, 3) == pytest.approx(5.0)


def test_samples_follow_the_law() -> None:
    law = laws.ActivationLaw(laws.zipf_frequencies(256, 12.0), correlation=0.6)
    rows = 4000
    mask = laws.sample_masks(law, rows, np.random.default_rng(3))
    # Variance of a correlated neuron's mean: p(1-p)/n * (1+rho)/(1-rho), here 4 times the plain one.
    deviation = np.sqrt(4.0 * law.frequency * (1.0 - law.frequency) / rows)
    assert np.all(np.abs(mask.mean(axis=0) - law.frequency) <= 5.0 * deviation + 1e-12)
    hot = mask[:, 0].astype(float)
    assert np.corrcoef(hot[1:], hot[:-1])[0, 1] == pytest.approx(0.6, abs=0.08)
    union = np.mean([mask[i : i + 8].any(axis=0).sum() for i in range(0, rows, 8)])
    assert union == pytest.approx(laws.expected_union(law, 8), rel=0.05)


def test_heavy_rows_reach_ten_times_the_mean() -> None:
    law = laws.ActivationLaw(laws.uniform_frequencies(2048, 20.0), row_sigma=0.8)
    nnz = laws.sample_masks(law, 4000, np.random.default_rng(5)).sum(axis=1)
    assert nnz.mean() == pytest.approx(20.0, rel=0.1)
    assert nnz.max() > 8 * nnz.mean()


def test_quantile_of_a_fair_coin() -> None:
    pmf = np.array([0.25, 0.5, 0.25])
    assert [laws.nnz_quantile(pmf, q) for q in (0.25, 0.5, 0.75, 0.76, 1.0)] == [0, 1, 1, 2, 2]
