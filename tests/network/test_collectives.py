"""Collectives against hand arithmetic, and what must hold whatever the figures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.cost.network.collectives import (
    ALGORITHMS,
    Protocol,
    bus_bandwidth,
    energy_j,
    phases,
    spread,
    time_s,
    usable,
)
from sparsesim.cost.network.layout import Layout
from sparsesim.cost.network.overlap import behind, exposed, moe_layer, two_batch
from sparsesim.errors import InputError
from sparsesim.hardware.topology import Fabric

FABRIC = Fabric(
    gpus_per_node=8,
    link_bytes_per_s=400e9,
    hop_s=1e-6,
    nodes=4,
    nic_bytes_per_s=50e9,
    nics_per_node=8,
    rdma_s=5e-6,
    link_j_per_byte=80e-12,
    nic_j_per_byte=2400e-12,
    in_switch_reduction=True,
)
PLAIN = Protocol()


def seconds(collective: str, size: float, ranks: int, algorithm: str | None = None, fabric: Fabric = FABRIC) -> float:
    return float(time_s(collective, size, spread(ranks, fabric), PLAIN, algorithm))


def test_ring_all_reduce_in_a_node_by_hand() -> None:
    # 2*7 steps of 1 us, 2*7/8 * 800 MB over 400 GB/s
    assert seconds("all_reduce", 800e6, 8, "ring") == pytest.approx(14e-6 + 1.4e9 / 400e9)


def test_hierarchical_all_reduce_over_nodes_by_hand() -> None:
    # inside: 7/8 of 800 MB twice; along the rail: 100 MB, 3/4 of it twice; 2 hops, 2*3 messages
    by_hand = 2 * (1e-6 + 700e6 / 400e9) + 2 * (3 * 5e-6 + 75e6 / 50e9)
    assert seconds("all_reduce", 800e6, 32, "hierarchical") == pytest.approx(by_hand)


def test_even_all_to_all_over_nodes_is_bounded_by_the_nic() -> None:
    """Bus bandwidth N/(N-1) x NIC (nccl-tests issue 130): 2 nodes reach twice the NIC, 4 nodes 4/3."""
    size = 64e9
    for nodes in (2, 4):
        ranks = 8 * nodes
        reached = bus_bandwidth("all_to_all", size, ranks, seconds("all_to_all", size, ranks, "direct"))
        ideal = nodes / (nodes - 1) * 50e9 * (ranks - 1) / ranks
        assert float(reached) == pytest.approx(ideal, rel=1e-3)


def test_in_switch_reduction_wins_for_large_buffers_only_where_the_switch_has_it() -> None:
    at = spread(8, FABRIC)
    assert "in_switch" in usable("all_reduce", at)
    # 9/8 of the buffer against 14/8
    ratio = seconds("all_reduce", 8e9, 8, "ring") / seconds("all_reduce", 8e9, 8, "in_switch")
    assert ratio == pytest.approx(14 / 9, rel=1e-2)
    without = replace(FABRIC, in_switch_reduction=False)
    assert seconds("all_reduce", 8e9, 8, None, without) == pytest.approx(seconds("all_reduce", 8e9, 8, "direct"))


def test_small_messages_choose_latency_and_large_ones_bandwidth() -> None:
    small = {name: seconds("all_reduce", 1e3, 8, name) for name in ("ring", "one_shot", "direct")}
    large = {name: seconds("all_reduce", 1e9, 8, name) for name in ("ring", "one_shot", "direct")}
    assert min(small, key=lambda n: small[n]) == "one_shot"
    assert max(large, key=lambda n: large[n]) == "one_shot"


def test_two_nics_a_node_carry_four_devices_each() -> None:
    shared = replace(FABRIC, nics_per_node=2)
    slow, fast = (seconds("all_to_all", 1e9, 32, "direct", f) for f in (shared, FABRIC))
    assert slow / fast == pytest.approx(4.0, rel=1e-2)


def test_an_oversubscribed_spine_slows_what_crosses_it() -> None:
    fabric = replace(FABRIC, nodes_per_leaf=2, rails=False, oversubscription=3.0)
    # of 24 far ranks 16 lie under the other leaf: 3 * 2/3 = twice the time
    slow, fast = seconds("all_to_all", 1e9, 32, "direct", fabric), seconds("all_to_all", 1e9, 32, "direct")
    assert slow / fast == pytest.approx(2.0, rel=1e-2)


@settings(deadline=None)
@given(size=st.floats(1.0, 1e10), collective=st.sampled_from(sorted(ALGORITHMS)), ranks=st.sampled_from([8, 16, 32]))
def test_faster_hardware_and_smaller_buffers_are_never_slower(size: float, collective: str, ranks: int) -> None:
    base = seconds(collective, size, ranks)
    for change in (
        {"link_bytes_per_s": 800e9},
        {"nic_bytes_per_s": 100e9},
        {"hop_s": 0.5e-6},
        {"rdma_s": 2e-6},
    ):
        assert seconds(collective, size, ranks, None, replace(FABRIC, **change)) <= base
    assert seconds(collective, size / 2, ranks) <= base


def test_a_single_rank_communicates_nothing() -> None:
    assert time_s("all_reduce", np.array([1.0, 1e9]), spread(1, FABRIC), PLAIN).tolist() == [0.0, 0.0]


def test_energy_counts_every_devices_bytes() -> None:
    # all-gather of 800 B on 8: each sends 700 B at 80 pJ
    assert float(energy_j("all_gather", 800.0, spread(8, FABRIC), "ring")) == pytest.approx(8 * 700 * 80e-12)


def test_impossible_groups_and_names_are_errors() -> None:
    with pytest.raises(InputError, match="12 ranks do not fill 5 nodes evenly"):
        spread(12, FABRIC, nodes=5)
    with pytest.raises(InputError, match="do not fit a fabric of 4 nodes of 8"):
        spread(64, FABRIC)
    with pytest.raises(InputError, match=r"unknown collective 'allreduce'.*all_reduce"):
        phases("allreduce", "ring", 1.0, spread(8, FABRIC))
    with pytest.raises(InputError, match="one_shot all_reduce of 16 ranks on 2 nodes"):
        seconds("all_reduce", 1.0, 16, "one_shot")
    with pytest.raises(InputError, match=r"link_bytes_per_s is 0.*\n.*NICs of 0"):
        Fabric(gpus_per_node=8, link_bytes_per_s=0, hop_s=0, nodes=2, nics_per_node=8)


def test_tensor_parallel_groups_stay_inside_a_node_and_expert_groups_span_them() -> None:
    layout = Layout(devices=32, gpus_per_node=8, tp=4, dp=4, pp=2, ep=16)
    assert layout.groups("tp")[0].tolist() == [0, 1, 2, 3]
    assert layout.groups("dp")[0].tolist() == [0, 4, 8, 12]
    assert layout.groups("pp")[0].tolist() == [0, 16]
    assert layout.groups("ep")[1].tolist() == list(range(16, 32))
    assert [layout.nodes_spanned(axis) for axis in ("tp", "dp", "pp", "ep")] == [1, 2, 2, 2]
    for axis in ("tp", "dp", "pp", "ep", "cp"):
        assert sorted(layout.groups(axis).ravel().tolist()) == list(range(32))


def test_the_axis_that_comes_first_shares_a_node() -> None:
    layout = Layout(devices=32, gpus_per_node=8, tp=4, dp=4, pp=2, order=("dp", "cp", "tp", "pp"))
    assert layout.groups("dp")[0].tolist() == [0, 1, 2, 3]
    assert layout.groups("tp")[0].tolist() == [0, 4, 8, 12]


def test_groups_that_do_not_fill_the_devices_are_an_error() -> None:
    with pytest.raises(InputError, match=r"tp 3 x cp 1 x dp 4 x pp 1 = 12 devices a replica do not fill 32"):
        Layout(devices=32, gpus_per_node=8, tp=3, dp=4)
    with pytest.raises(InputError, match="ep 3 does not divide"):
        Layout(devices=32, gpus_per_node=8, tp=4, dp=4, ep=3)


def test_overlap_hides_at_most_the_shorter_part() -> None:
    assert behind(3.0, 2.0) == 3.0
    assert exposed(3.0, 2.0) == 1.0
    assert moe_layer(1.0, 3.0, 2.0, 3.0, 2.5, True) == 1 + 3 + 2 + 3
    assert moe_layer(1.0, 3.0, 2.0, 3.0, 2.5, False) == 1 + 3 + 2.5 + 2 + 3


def test_two_batches_gain_when_halves_cost_half_and_lose_when_they_cost_as_much() -> None:
    whole = moe_layer(2.0, 1.0, 2.0, 1.0, 0.0, False)
    assert two_batch(1.0, 0.5, 1.0, 0.5) == 4.0 < whole
    assert two_batch(2.0, 1.0, 2.0, 1.0) == 8.0 > whole
