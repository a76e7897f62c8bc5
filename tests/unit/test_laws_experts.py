"""Expert loads: inclusion, experts hit, samples and balance metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim import laws


def test_two_of_three_by_hand() -> None:
    # Weights 1/2, 1/4, 1/4. The third is left out when the first two win in either order:
    # 1/2 * (1/4)/(1/2) + 1/4 * (1/2)/(3/4) = 1/4 + 1/6 = 5/12, so its inclusion is 7/12.
    inclusion = laws.inclusion_probabilities(np.array([0.5, 0.25, 0.25]), 2)
    np.testing.assert_allclose(inclusion, [5 / 6, 7 / 12, 7 / 12], atol=1e-7)


@given(experts=st.integers(4, 64), exponent=st.floats(0.0, 2.0), data=st.data())
@settings(max_examples=15, deadline=None)
def test_inclusion_sums_to_top_k_and_keeps_the_order(experts: int, exponent: float, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, min(8, experts)))
    inclusion = laws.inclusion_probabilities(laws.zipf_popularity(experts, exponent), top_k)
    assert inclusion.sum() == pytest.approx(top_k, rel=1e-6)
    assert np.all(np.diff(inclusion) <= 1e-9)
    assert inclusion.max() <= 1.0


def test_even_routing_hits_the_textbook_number_of_experts() -> None:
    inclusion = laws.inclusion_probabilities(laws.uniform_popularity(128), 8)
    # 128 * (1 - (1 - 8/128)^16) = 82.42
    assert float(laws.expected_experts_hit(inclusion, 16)) == pytest.approx(82.42, abs=0.01)


def test_skew_hits_fewer_experts_than_even_routing() -> None:
    even = laws.inclusion_probabilities(laws.uniform_popularity(64), 4)
    skew = laws.inclusion_probabilities(laws.zipf_popularity(64, 1.0), 4)
    tokens = np.array([1, 4, 16, 64])
    gap = laws.expected_experts_hit(even, tokens) - laws.expected_experts_hit(skew, tokens)
    assert gap[0] == pytest.approx(0.0, abs=1e-9)
    assert np.all(gap[1:] > 0.0)


def test_sampled_counts_follow_the_inclusion_probabilities() -> None:
    popularity = laws.zipf_popularity(32, 1.2)
    inclusion = laws.inclusion_probabilities(popularity, 4)
    tokens = 20_000
    counts = laws.sample_counts(popularity, 4, tokens, np.random.default_rng(1))
    assert counts.sum() == 4 * tokens
    deviation = np.sqrt(tokens * inclusion * (1.0 - inclusion))
    assert np.all(np.abs(counts - tokens * inclusion) < 5.0 * deviation + 1.0)


def test_a_token_never_gets_an_expert_twice() -> None:
    picked = laws.sample_assignments(laws.zipf_popularity(16, 2.0), 6, 500, np.random.default_rng(2))
    assert all(len(set(row)) == 6 for row in picked.tolist())


def test_hot_set_wraps_and_sums_to_one() -> None:
    popularity = laws.hot_set_popularity(8, hot=2, share=0.5, first=7)
    np.testing.assert_allclose(popularity, [0.25, *[0.5 / 6] * 6, 0.25])


def test_dirichlet_gets_more_even_with_concentration() -> None:
    rng = np.random.default_rng(4)
    uneven = np.mean([laws.gini(laws.dirichlet_popularity(64, 0.3, rng)) for _ in range(20)])
    even = np.mean([laws.gini(laws.dirichlet_popularity(64, 30.0, rng)) for _ in range(20)])
    assert even < 0.2 < 0.5 < uneven


def test_balance_metrics_by_hand() -> None:
    counts = np.array([1, 2, 3, 6])
    assert laws.load_balance_coefficient(counts) == pytest.approx(4 * 1 / 12)
    assert laws.max_over_mean(counts) == pytest.approx(2.0)
    # Mean absolute difference over all ordered pairs: 2*(1+2+5+1+4+3)/16 = 2; Gini = 2 / (2 * 3) = 1/3.
    assert laws.gini(counts) == pytest.approx(1.0 / 3.0)
    assert laws.padding_utilisation(counts, 4) == pytest.approx(12 / 20)


def test_more_picks_than_experts_with_load_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 experts with load"):
        laws.inclusion_probabilities(np.array([0.5, 0.5, 0.0]), 3)
