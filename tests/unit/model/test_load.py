"""Expert loads, the busiest rank they make, and what unevenness costs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim import laws
from sparsesim.errors import InputError
from sparsesim.families import members
from sparsesim.model.balance import balance, balance_distribution, dropped_share, replacement
from sparsesim.model.load import ExpertLoad, read_load
from sparsesim.model.ranks import dealt, expert_counts, rank_counts, rank_skew

WORDS = {
    "uniform": "uniform",
    "zipf": "zipf:0.8",
    "dirichlet": "dirichlet:0.5",
    "hot_expert": "hot:3",
    "hot_set": "hot_set:hot=4,share=0.5",
    "hot_rank": "hot_rank:4:0.7",
    "rotating_hot_spot": "rotating_hot_spot:hot=2,share=0.4,period=10",
    "burst": "burst:share=0.9,hot=2,duty=0.25,period=40",
    "empirical": "empirical:counts=" + "/".join(map(str, range(1, 33))) + "/",
}
E, K = 32, 4


def test_every_kind_is_tried_here() -> None:
    assert set(members(ExpertLoad)) == set(WORDS)


@pytest.mark.parametrize("kind", WORDS)
def test_popularities_are_shares(kind: str) -> None:
    load = read_load(WORDS[kind])
    assert load.kind == kind
    for layer in range(3):
        for step in (0, 7, 35, 1000):
            popularity = load.popularity(E, layer, step)
            assert popularity.shape == (E,)
            assert popularity.min() >= 0.0
            assert popularity.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", WORDS)
def test_a_load_reads_back_its_word_and_its_mapping(kind: str) -> None:
    load = read_load(WORDS[kind])
    assert read_load(load.word()) == load
    assert read_load(load.with_kind()) == load


@pytest.mark.parametrize("kind", WORDS)
def test_every_draw_routes_each_token_to_top_k_experts(kind: str) -> None:
    for tokens in (3, 5000):
        counts = expert_counts(tokens, E, K, WORDS[kind], draws=8)
        assert counts.sum(axis=1) == pytest.approx(np.full(8, tokens * K))
        assert counts.max() <= tokens * (1 + 1e-9)


def test_same_seed_same_counts_and_another_seed_others() -> None:
    again = expert_counts(100, E, K, "zipf:exponent=0.8")
    assert np.array_equal(expert_counts(100, E, K, "zipf:exponent=0.8"), again)
    assert not np.array_equal(expert_counts(100, E, K, "zipf:exponent=0.8,seed=1"), again)


def test_zipf_keeps_its_shares_and_deals_them_anew_in_each_layer() -> None:
    load = read_load("zipf:1.0")
    first, second = load.popularity(8, 0), load.popularity(8, 1)
    assert np.sort(first)[::-1] == pytest.approx(laws.zipf_popularity(8, 1.0))
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.sort(second))


def test_hot_expert_is_as_many_times_as_popular_as_it_says() -> None:
    popularity = np.sort(read_load("hot:5").popularity(16))
    assert popularity[-1] / popularity[0] == pytest.approx(5.0)
    assert popularity[-2] == pytest.approx(popularity[0])


def test_hot_rank_carries_its_share() -> None:
    ranks = dealt(E, 4) @ read_load("hot_rank:4:0.7").popularity(E)
    assert ranks.max() == pytest.approx(0.7)
    idle = dealt(E, 4) @ read_load("hot_rank:4:0.0").popularity(E)
    assert idle.min() == 0.0


def test_hot_spot_stays_for_its_period_and_moves_by_its_width() -> None:
    load = read_load("rotating_hot_spot:hot=2,share=0.4,period=10")
    assert np.array_equal(load.popularity(E, 0, 0), load.popularity(E, 0, 9))
    assert np.array_equal(np.roll(load.popularity(E, 0, 9), 2), load.popularity(E, 0, 10))


def test_bursts_take_their_share_of_the_time() -> None:
    load = read_load("burst:share=0.9,hot=1,duty=0.25,period=40")
    hot = [load.popularity(E, 0, step).max() > 0.5 for step in range(400)]
    assert np.mean(hot) == pytest.approx(0.25)


def test_drift_leads_from_one_popularity_to_the_next() -> None:
    load = read_load("zipf:exponent=1.0,drift=100")
    start, half, after = (load.popularity(E, 0, step) for step in (0, 50, 100))
    assert half == pytest.approx((start + after) / 2)
    assert not np.allclose(start, after)


def test_routing_log_is_read_by_layer(tmp_path: Path) -> None:
    log = tmp_path / "routing.csv"
    log.write_text("layer,expert,count\n0,0,30\n0,1,10\n1,0,1\n1,1,1\n")
    load = read_load({"kind": "empirical", "file": str(log)})
    assert load.popularity(2, 0).tolist() == [0.75, 0.25]
    assert load.popularity(2, 3).tolist() == [0.5, 0.5]


def test_faulty_line_of_a_routing_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "routing.csv"
    log.write_text("layer,expert,count\n0,0,30\n0,one,10\n")
    with pytest.raises(InputError, match=r"routing\.csv:3: not a row of a routing log"):
        read_load({"kind": "empirical", "file": str(log)}).popularity(2)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("zip:0.8", "unknown kind 'zip'"),
        ("zipf:exponent=-1", "greater than or equal to 0"),
        ("zipf:0.8:1:2", "has no field"),
        ("hot_set:hot=4,share=1.5", "less than or equal to 1"),
        ({"kind": "empirical", "shares": [0.5, 0.2]}, "sum to 0.7, not to 1"),
        ({"kind": "empirical", "counts": [1, -1]}, "from 0 up"),
        ({"kind": "empirical", "counts": [1], "shares": [1.0]}, "counts and shares"),
    ],
)
def test_what_is_no_load_is_refused(load: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_load(load)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("hot_set:hot=32,share=0.5", "32 hot experts of 32"),
        ("hot_rank:5:0.5", "5 ranks do not divide 32 experts"),
        ("empirical:counts=1/2/3/", "the histogram has 3 experts, the model 32"),
    ],
)
def test_loads_that_do_not_go_with_the_experts_say_so(load: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_load(load).popularity(E)


def test_more_active_experts_than_experts_are_refused() -> None:
    with pytest.raises(InputError, match="top_k 9 must be between 1 and the 8 experts"):
        expert_counts(10, 8, 9)


def test_experts_that_ranks_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="8 experts cannot be dealt evenly to ep 3 ranks"):
        rank_counts(10, 8, 2, 3)


def test_experts_hit_by_few_tokens() -> None:
    """Even routing: E (1 - (1 - k/E)^b) experts have a token (facts on communication)."""
    for tokens in (1, 4, 16, 64, 65, 100):
        counts = expert_counts(tokens, 128, 8, "uniform", draws=256)
        expected = 128 * (1 - (1 - 8 / 128) ** tokens)
        assert np.count_nonzero(counts, axis=1).mean() == pytest.approx(expected, rel=0.02)


def test_binomial_and_routed_counts_meet() -> None:
    """On either side of the number of tokens up to which each is routed."""
    weights = laws.zipf_popularity(64, 0.8)
    inclusion = np.sort(laws.inclusion_probabilities(weights, 8))[::-1]
    beyond = np.sort(expert_counts(65, 64, 8, "zipf:0.8", draws=400), axis=1)[:, ::-1].mean(axis=0)
    routed = np.sort(expert_counts(64, 64, 8, "zipf:0.8", draws=400), axis=1)[:, ::-1].mean(axis=0)
    assert beyond / 65 == pytest.approx(routed / 64, rel=0.05, abs=0.01)
    many = expert_counts(10_000, 64, 8, "zipf:0.8").max(axis=1).mean()
    assert many / 10_000 == pytest.approx(inclusion[0], rel=0.02)


@pytest.mark.parametrize("ep", [2, 4, 16])
def test_drawn_counts_have_the_busiest_rank_of_routed_tokens(ep: int) -> None:
    """The closed form's variance and covariance against tokens routed one by one."""
    weights = laws.zipf_popularity(16, 0.8)
    rng = np.random.default_rng(0)
    routed = np.stack([laws.sample_counts(weights, 4, 200, rng) for _ in range(800)])
    hottest = routed.reshape(800, ep, -1).sum(axis=2).max(axis=1).mean()
    load = read_load({"kind": "empirical", "shares": weights.tolist()})
    drawn = rank_counts(200, 16, 4, ep, load, draws=800).sum(axis=1).mean()
    assert drawn == pytest.approx(hottest, rel=0.005)


def test_one_rank_holds_all() -> None:
    assert rank_counts(50, E, K, 1, "zipf:0.8").sum(axis=1) == pytest.approx(np.full(64, 50 * K))


def test_busiest_of_two_single_expert_ranks_under_even_top_one() -> None:
    """E max(X, n - X) of a fair binomial: n/2 + sqrt(n / (2 pi)) for large n."""
    rows = rank_counts(200, 2, 1, 2, "uniform", draws=2000).sum(axis=1)
    assert rows.mean() == pytest.approx(100 + math.sqrt(200 / (2 * math.pi)), rel=0.01)


def test_rank_skew_is_far_below_expert_skew() -> None:
    """A rank holds several experts, so its load is evener (facts on communication)."""
    ranks = rank_skew(4096, 128, 8, 8, "zipf:0.8").mean()
    experts = rank_skew(4096, 128, 8, 128, "zipf:0.8").mean()
    assert 1.0 < ranks < 0.5 * experts


@settings(deadline=None, max_examples=30)
@given(tokens=st.integers(1, 2000), ep=st.sampled_from([1, 2, 4, 8]), exponent=st.floats(0.0, 1.5))
def test_busiest_rank_lies_between_the_mean_and_everything(tokens: int, ep: int, exponent: float) -> None:
    skew = rank_skew(tokens, E, K, ep, f"zipf:{exponent}", draws=4)
    assert np.all(skew >= 1.0 - 1e-9)
    assert np.all(skew <= ep + 1e-9)


def test_copies_of_a_hot_expert_even_the_ranks_out() -> None:
    load = read_load("hot_set:hot=1,share=0.5")
    share = dealt(8, 4).copy()
    share[:, :] = 0.25
    assert rank_skew(4096, 8, 2, 4, load, share).mean() == pytest.approx(1.0)
    assert rank_skew(4096, 8, 2, 4, load).mean() > 1.5


def test_measures_by_hand() -> None:
    """Loads 4, 2, 2, 0 of mean 2 in blocks of 4: 8 real rows in 12; capacity 3 turns one row of 8 away."""
    measured = balance(np.array([4.0, 2.0, 2.0, 0.0]), block=4, capacity_factor=1.5)
    assert measured.load_balance_coefficient == 0.0
    assert measured.max_over_mean == 2.0
    assert measured.gini == pytest.approx(0.375)
    assert measured.padding_utilisation == pytest.approx(8 / 12)
    assert measured.padding_overhead == pytest.approx(0.5)
    assert measured.dropped_share == pytest.approx(1 / 8)
    assert measured.idle_experts == 1.0


def test_unbounded_capacity_drops_nothing_and_balanced_counts_neither() -> None:
    assert dropped_share(np.array([9.0, 0.0]), math.inf) == 0.0
    assert dropped_share(np.full(8, 5.0), 1.0) == 0.0


def test_skewed_load_is_less_even_in_every_measure() -> None:
    even = balance_distribution("uniform", 64, 8, 4096, capacity_factor=1.25)
    skewed = balance_distribution("zipf:1.0", 64, 8, 4096, capacity_factor=1.25)
    assert skewed["gini"].mean() > even["gini"].mean()
    assert skewed["max_over_mean"].mean() > even["max_over_mean"].mean()
    assert skewed["load_balance_coefficient"].mean() < even["load_balance_coefficient"].mean()
    assert skewed["dropped_share"].mean() > even["dropped_share"].mean()


def test_replacing_often_enough_follows_a_drifting_load() -> None:
    """Placing heavy experts apart helps while the placement is fresher than the drift."""

    def place(popularity: Any) -> Any:
        order = np.argsort(-popularity)
        share = np.zeros((4, 16))
        for position, expert in enumerate(order):
            rank = position % 4 if (position // 4) % 2 == 0 else 3 - position % 4
            share[rank, expert] = 1.0
        return share

    load = read_load("zipf:exponent=0.9,drift=1000")
    often = replacement(load, 16, place, every=50, intervals=40, expert_bytes=10.0)
    assert often.moving < often.still
    assert often.moved_bytes == 10.0 * often.moved_experts
    assert often.moved_experts > 0
    fixed = replacement(read_load("zipf:0.9"), 16, place, every=50, intervals=8)
    assert fixed.moved_experts == 0.0
    assert fixed.still == fixed.moving
