"""Expert loads of the busiest rank."""

import numpy as np
import pytest

from sparsesim import laws
from sparsesim.cost.routing import rank_load
from sparsesim.errors import InputError


@pytest.mark.parametrize("load", ["uniform", "zipf", "zipf:0.5"])
def test_rows_of_a_single_rank_are_tokens_times_top_k(load: str) -> None:
    tokens = np.array([1.0, 7.0, 64.0, 1000.0, 40000.0])
    counts = rank_load(load, 128, 8, 1).at(tokens)
    np.testing.assert_allclose(counts.sum(axis=1), tokens * 8, rtol=1e-6)


def test_one_token_hits_exactly_top_k_experts() -> None:
    counts = rank_load("uniform", 128, 8, 1).at(np.array([1.0]))
    assert np.minimum(counts, 1.0).sum() == pytest.approx(8.0)


def test_experts_hit_agree_with_the_closed_form() -> None:
    """E (1 - (1 - k/E)^b) for even routing (facts: communication)."""
    for tokens in (4.0, 16.0, 64.0):
        hit = np.minimum(rank_load("uniform", 128, 8, 1).at(np.array([tokens])), 1.0).sum()
        assert hit == pytest.approx(128 * (1 - (1 - 8 / 128) ** tokens), rel=0.03)


def test_skewed_routing_hits_fewer_experts_and_loads_one_rank_more() -> None:
    even, skewed = (rank_load(load, 64, 4, 8).at(np.array([512.0])) for load in ("uniform", "zipf:1.2"))
    assert skewed.sum() > even.sum()
    alone = [rank_load(load, 64, 4, 1).at(np.array([8.0])) for load in ("uniform", "zipf:1.2")]
    assert np.minimum(alone[1], 1).sum() < np.minimum(alone[0], 1).sum()


def test_the_busiest_rank_matches_fresh_sampling() -> None:
    rng = np.random.default_rng(5)
    draws = [
        laws.sample_counts(laws.uniform_popularity(32), 2, 256, rng).reshape(16, 2).sum(1).max() for _ in range(400)
    ]
    assert rank_load("uniform", 32, 2, 16).at(np.array([256.0])).sum() == pytest.approx(np.mean(draws), rel=0.03)


def test_every_load_of_the_family_is_a_load_of_an_op() -> None:
    """Half of all choices on one of 4 ranks; a token of one choice goes there with probability 0.5."""
    tokens = np.array([40_000.0])
    assert rank_load("hot_rank:4,0.5", 32, 1, 4).at(tokens).sum() == pytest.approx(0.5 * 40_000, rel=0.01)
    neighbours = rank_load("rotating_hot_spot:8,0.5", 32, 1, 4).at(tokens).sum()
    assert 0.5 / 2 * 40_000 < neighbours <= 0.5 * 40_000 * 1.02  # the spot straddles two ranks more often than not
    assert rank_load("zipf-0.8", 32, 2, 4).counts == pytest.approx(rank_load("zipf:0.8", 32, 2, 4).counts)


def test_more_tokens_are_more_rows_on_every_rung() -> None:
    tokens = np.arange(0.0, 3000.0, 13.0)
    rows = rank_load("zipf", 32, 2, 4).at(tokens).sum(axis=1)
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize(
    ("load", "top_k", "ep"),
    [("pareto", 2, 1), ("uniform", 9, 1), ("uniform", 2, 3), ("zipf:x", 2, 1), ("hot_rank:4,0", 7, 1)],
)
def test_what_cannot_be_routed_is_an_error(load: str, top_k: int, ep: int) -> None:
    with pytest.raises(InputError):
        rank_load(load, 8, top_k, ep)
