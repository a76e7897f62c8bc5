"""Dispatch and combine: visits against exact laws and samples, loads against the routed graph, published rows."""

from itertools import combinations
from math import comb
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsesim import laws
from sparsesim.cost.network.moe import (
    MODES,
    ExpertKernel,
    Mode,
    dispatch_loads,
    imbalance,
    step_s,
    traffic_matrix,
)
from sparsesim.cost.network.placement import Assignment, Placement
from sparsesim.cost.network.routing import Routing, visits
from sparsesim.errors import InputError
from sparsesim.hardware.topology import Topology, load_topology

EXPERTS, TOP_K = 256, 8


def zipf(exponent: float, experts: int = EXPERTS) -> NDArray[np.float64]:
    return laws.inclusion_probabilities(laws.zipf_popularity(experts, exponent), TOP_K)


def place(kind: str, load: NDArray[np.float64], ranks: int, **fields: object) -> Assignment:
    return Placement.resolve({"kind": kind, **fields}).place(load, ranks)


EVEN = np.full(EXPERTS, TOP_K / EXPERTS)


def test_even_routing_visits_ranks_by_the_hypergeometric_law() -> None:
    at = visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 32), 8)
    assert at.rank == pytest.approx(1 - comb(248, 8) / comb(256, 8))
    assert at.node == pytest.approx(1 - comb(192, 8) / comb(256, 8))
    assert at.copies == pytest.approx(TOP_K / 32)


def test_group_limited_even_routing_visits_nodes_as_counted() -> None:
    """4 of 8 groups, groups on nodes: each of 4 nodes is missed by C(96,8)/C(128,8) of tokens.

    The published approximation L (1 - (1 - 1/L)^k) lies 1 % below: it draws with replacement.
    """
    at = visits(Routing(EVEN, TOP_K, groups=8, group_limit=4), place("contiguous", EVEN, 64), 8)
    exact = 4 * (1 - comb(96, 8) / comb(128, 8))
    assert at.node.sum() == pytest.approx(exact)
    assert at.node.sum() == pytest.approx(4 * (1 - 0.75**8), rel=0.015)


def test_skewed_routing_visits_ranks_as_samples_do() -> None:
    popularity = laws.zipf_popularity(EXPERTS, 0.8)
    tokens = 20_000
    chosen = laws.sample_assignments(popularity, TOP_K, tokens, np.random.default_rng(0))
    hit = np.zeros((tokens, 64), dtype=bool)
    hit[np.arange(tokens)[:, None], chosen // 4] = True
    at = visits(Routing(zipf(0.8), TOP_K), place("contiguous", EVEN, 64), 8)
    error = 5 * np.sqrt(0.25 / tokens)  # five standard deviations at most
    assert np.abs(hit.mean(axis=0) - at.rank).max() < error
    assert np.abs(hit.reshape(tokens, 8, 8).any(axis=2).mean(axis=0) - at.node).max() < error


@pytest.mark.parametrize("exponent", [0.3, 0.8, 1.2])
def test_odds_reproduce_the_inclusion_probabilities(exponent: float) -> None:
    routing = Routing(zipf(exponent), TOP_K)
    assert routing.hits(np.eye(EXPERTS)) == pytest.approx(zipf(exponent), rel=1e-5, abs=1e-8)


def test_an_expert_that_is_always_chosen_is_always_visited() -> None:
    inclusion = np.array([1.0, *[1 / 7] * 7])
    assert Routing(inclusion, 2).hits(np.eye(8)) == pytest.approx(inclusion, abs=1e-6)


def test_group_limited_choice_is_that_of_all_sets_counted_one_by_one() -> None:
    """2 of 8 experts in 4 groups of 2: sets inside one group, or in two, each as often as its odds' product says.

    With a limit of 1 group only pairs of the same group remain.
    """
    inclusion = np.array([0.5, 0.4, 0.3, 0.3, 0.2, 0.1, 0.1, 0.1])
    pairs = list(combinations(range(8), 2))
    free = Routing(inclusion, 2)
    odds = free.odds
    one = Routing(inclusion, 2, groups=4, group_limit=1)
    weight = {pair: odds[list(pair)].prod() for pair in pairs if pair[0] // 2 == pair[1] // 2}
    by_hand = [sum(w for pair, w in weight.items() if e in pair) / sum(weight.values()) for e in range(8)]
    assert one.chosen == pytest.approx(by_hand)
    three = Routing(np.full(8, 3 / 8), 3, groups=4, group_limit=2)
    sets = [t for t in combinations(range(8), 3) if len({e // 2 for e in t}) == 2]
    hit = sum(1 for t in sets if 0 in t or 1 in t) / len(sets)
    assert three.hits(np.repeat(np.eye(4), 2, axis=1))[0] == pytest.approx(hit)


def test_a_limit_on_groups_keeps_the_number_chosen_and_even_loads_even() -> None:
    skewed = Routing(zipf(0.8)[np.random.default_rng(1).permutation(EXPERTS)], TOP_K, 8, 4)
    assert skewed.chosen.sum() == pytest.approx(TOP_K)
    assert (skewed.chosen <= 1.0).all()
    assert Routing(EVEN, TOP_K, 8, 4).chosen == pytest.approx(EVEN)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "change",
    [{}, {"nodes_per_leaf": 4}, {"kind": "fat_tree", "nodes_per_leaf": 2}, {"nodes_per_leaf": 4, "nics_per_node": 4}],
)
def test_closed_form_loads_equal_those_of_the_routed_graph(mode: Mode, change: dict[str, object]) -> None:
    base = {"link": "200 GB/s", "link_latency": "0.3 us", "link_energy": "10 pJ/bit", "nic": "50 GB/s"}
    base |= {"nic_latency": "3 us", "nic_energy": "150 pJ/bit"}
    topology = Topology.resolve({"kind": "rail_optimised", "nodes": 8, **base, **change})
    at = visits(Routing(zipf(0.8), TOP_K, 8, 4), place("contiguous", EVEN, 64), 8)
    tokens = np.random.default_rng(1).integers(50, 200, 64).astype(float)
    loads = dispatch_loads(tokens, at, 100.0, topology.fabric(), mode)
    matrices = traffic_matrix(tokens, at, 100.0, 8, mode)
    on_links = sum(topology.routes().loads(m) for m in matrices)
    tier = np.array(topology.network().tier)
    busiest = {name: on_links[tier == name].max() for name in set(tier)}
    assert loads.busiest_link == pytest.approx(busiest["link"])
    assert loads.busiest_nic == pytest.approx(busiest["nic"])
    if "spine" in busiest:
        assert loads.spine_up.max() == pytest.approx(busiest["spine"], abs=1e-3)


@settings(max_examples=12, deadline=None)
@given(exponent=st.floats(0.0, 1.5), mode=st.sampled_from(MODES), seed=st.integers(0, 99))
def test_bytes_sent_equal_bytes_received(exponent: float, mode: Mode, seed: int) -> None:
    fabric = load_topology("h800-cluster").fabric()
    order = np.random.default_rng(seed).permutation(EXPERTS)
    at = visits(Routing(zipf(exponent)[order], TOP_K), place("contiguous", EVEN, 64), 8)
    loads = dispatch_loads(np.random.default_rng(seed).random(64) * 100, at, 7408.0, fabric, mode)
    assert loads.link_out.sum() == pytest.approx(loads.link_in.sum())
    assert loads.nic_out.sum() == pytest.approx(loads.nic_in.sum())


def test_permuting_ranks_changes_no_time_on_a_symmetric_fabric() -> None:
    fabric = load_topology("nvl72").fabric()
    load = zipf(0.9, 288)
    assignment = place("contiguous", load, 72)
    order = np.random.default_rng(5).permutation(72)
    moved = Assignment(assignment.expert[order], 288)
    tokens = np.random.default_rng(6).random(72) * 64
    for mode in MODES:
        a = dispatch_loads(tokens, visits(Routing(load, TOP_K), assignment, 72), 1.0, fabric, mode)
        b = dispatch_loads(tokens[order], visits(Routing(load, TOP_K), moved, 72), 1.0, fabric, mode)
        assert a.busiest_link == pytest.approx(b.busiest_link)


@settings(max_examples=8, deadline=None)
@given(low=st.floats(0.0, 0.7), more=st.floats(0.05, 0.6))
def test_skew_never_makes_the_busiest_rank_faster(low: float, more: float) -> None:
    fabric = load_topology("h800-cluster").fabric()
    even = visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 64), 8)
    factor = [
        imbalance(128.0, visits(Routing(zipf(x), TOP_K), place("contiguous", EVEN, 64), 8), even, fabric, "low_latency")
        for x in (low, low + more)
    ]
    assert 1.0 - 1e-9 <= factor[0] <= factor[1]


def test_replicating_hot_experts_removes_most_of_the_skew() -> None:
    load = zipf(0.8)
    skewed = place("contiguous", load, 64).rank_load(load)
    eplb = place("replicated", load, 72, redundant=32).rank_load(load)
    assert skewed.max() / skewed.mean() > 5.0
    assert eplb.max() / eplb.mean() < 1.1


def test_every_placement_serves_every_token_once() -> None:
    load = zipf(1.0)
    for kind, ranks, fields in (
        ("contiguous", 64, {}),
        ("round_robin", 72, {}),
        ("balanced", 72, {}),
        ("replicated", 72, {"redundant": 32}),
        ("replicated", 1024, {"redundant": 768}),
    ):
        assignment = place(kind, load, ranks, **fields)
        assert assignment.share.sum(axis=0) == pytest.approx(1.0)
        assert assignment.rank_load(load).sum() == pytest.approx(TOP_K)
        assert (assignment.expert >= 0).any(axis=1).all()


def test_balanced_packing_keeps_its_guarantee() -> None:
    """Longest processing time first stays within 4/3 of the larger of mean and largest item, slots not binding here."""
    load = np.random.default_rng(2).random(256)
    ranks = place("balanced", load, 64).rank_load(load)
    assert ranks.max() <= 4 / 3 * max(load.sum() / 64, load.max())


def test_placements_that_do_not_fill_the_ranks_are_errors() -> None:
    with pytest.raises(InputError, match=r"256 experts do not divide among 72 ranks \(placement"):
        place("contiguous", EVEN, 72)
    with pytest.raises(InputError, match=r"256 experts \+ 31 do not divide among 72 ranks \(redundant: 32, 104, 176"):
        place("replicated", EVEN, 72, redundant=31)
    with pytest.raises(InputError, match="256 experts leave some of 300 ranks empty"):
        place("balanced", EVEN, 300)
    with pytest.raises(InputError, match="64 expert-parallel ranks do not fill nodes of 7"):
        visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 64), 7)
    with pytest.raises(InputError, match="2 groups hold fewer than top_k"):
        Routing(EVEN, TOP_K, groups=128, group_limit=2)
    at = visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 64), 8)
    with pytest.raises(InputError, match=r"unknown mode 'throughputs'.*throughput"):
        dispatch_loads(1.0, at, 1.0, load_topology("h800-cluster").fabric(), "throughputs")  # type: ignore[arg-type]


def test_deduplication_saves_nic_bytes_and_group_limits_save_more() -> None:
    fabric = load_topology("h800-cluster").fabric()
    at = visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 64), 8)
    limited = visits(Routing(EVEN, TOP_K, 8, 4), place("contiguous", EVEN, 64), 8)
    direct, dedup, grouped = (
        dispatch_loads(1.0, v, 1.0, fabric, mode).busiest_nic
        for v, mode in ((at, "low_latency"), (at, "throughput"), (limited, "throughput"))
    )
    assert direct == pytest.approx(8 * 7 / 8)  # eight copies, one in eight stays
    assert dedup == pytest.approx(7 * (1 - comb(224, 8) / comb(256, 8)))
    assert grouped < dedup < direct


def test_energy_of_a_dispatch_is_bytes_times_joules_per_byte() -> None:
    fabric = load_topology("h800-cluster").fabric()
    at = visits(Routing(EVEN, TOP_K), place("contiguous", EVEN, 64), 8)
    loads = dispatch_loads(100.0, at, 7408.0, fabric, "low_latency")
    copies = 64 * 100 * 7408
    by_hand = copies * (7 / 8) * 80e-12 + copies * 7 * 1200e-12  # 7/64 of 8 copies inside, 56/64 across
    assert loads.energy_j(fabric) == pytest.approx(by_hand)


def test_a_step_of_1024_ranks_and_256_experts_takes_under_20_ms() -> None:
    fabric = load_topology("fat-tree-2to1").fabric()
    kernel = ExpertKernel(mode="throughput", fixed_s=3e-5, link_bytes_per_s=3e11, nic_bytes_per_s=4.8e10)
    load = zipf(0.8)
    at = visits(Routing(load, TOP_K, 8, 4), place("replicated", load, 1024, redundant=768), 8)
    start = perf_counter()
    dispatch, combine = step_s(128.0, at, (7408.0, 14352.0), fabric, (kernel, kernel))
    assert perf_counter() - start < 0.02
    assert 0 < dispatch < combine
