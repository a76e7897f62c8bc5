"""Topologies: loads against counts by hand, routes that lose nothing, and errors that name the fault."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsesim.errors import InputError
from sparsesim.families import members
from sparsesim.hardware.profile import load_device
from sparsesim.hardware.topology import Routes, Topology, load_topology, own_topology, topology_names

SMALL = ["nvlink-island", "h800-cluster", "ethernet-100g", "ring-8", "torus-4x4x4", "mesh-8x8", "dgx-pair-custom"]


def even(devices: int) -> NDArray[np.float64]:
    return np.ones((devices, devices)) - np.eye(devices)


def fat_tree(**changes: object) -> Topology:
    values = {
        "kind": "fat_tree",
        "nodes": 4,
        "gpus_per_node": 2,
        "link": "400 GB/s",
        "link_latency": "0.3 us",
        "link_energy": "10 pJ/bit",
        "nic": "50 GB/s",
        "nics_per_node": 2,
        "nic_latency": "3 us",
        "nic_energy": "150 pJ/bit",
        "nodes_per_leaf": 2,
        "oversubscription": 2.0,
    }
    return Topology.resolve({**values, **changes})


@pytest.mark.parametrize(
    ("name", "tier", "busiest"),
    [
        ("nvlink-island", "link", 7.0),  # to each of the seven others
        ("ring-8", "link", 8.0),  # n^2/8 on each direction of an even ring
        ("torus-4x4x4", "link", 32.0),  # 64 * 64 pairs of 3 hops on average over 384 links
        ("mesh-8x8", "link", 128.0),  # 32 * 32 pairs cross the bisection over 8 links, dimension by dimension
        ("h800-cluster", "nic", 56.0),  # to the 56 devices of the 7 other nodes
        ("h800-cluster", "spine", 8 * 7 * 7.0),  # of those, 7 in 8 lie on another rail; 8 devices a rail
    ],
)
def test_even_all_to_all_loads_the_links_as_counted_by_hand(name: str, tier: str, busiest: float) -> None:
    topology = load_topology(name)
    loads = topology.routes().loads(even(topology.devices))
    mask = np.array([t == tier for t in topology.network().tier])
    assert loads[mask].max() == pytest.approx(busiest)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_leaves_the_devices_arrives_and_switches_keep_nothing(name: str, seed: int) -> None:
    topology = load_topology(name)
    net = topology.network()
    traffic = np.random.default_rng(seed).random((net.devices, net.devices)) * even(net.devices)
    loads = topology.routes().loads(traffic)
    out = np.bincount(net.source, loads, minlength=len(net.nodes))
    into = np.bincount(net.target, loads, minlength=len(net.nodes))
    surplus = (out - into)[: net.devices]
    assert surplus == pytest.approx(traffic.sum(axis=1) - traffic.sum(axis=0))
    assert (out - into)[net.devices :] == pytest.approx(0.0, abs=1e-9 * traffic.sum())


@pytest.mark.parametrize("name", ["nvlink-island", "h800-cluster", "ring-8", "torus-4x4x4"])
def test_permuting_ranks_by_a_symmetry_changes_no_maximum(name: str) -> None:
    topology = load_topology(name)
    shift = 8 if name == "h800-cluster" else 1 if name != "torus-4x4x4" else 16
    traffic = np.random.default_rng(3).random((topology.devices,) * 2)
    moved = np.roll(traffic, (shift, shift), axis=(0, 1))
    loads = topology.routes().loads(traffic)
    assert np.sort(topology.routes().loads(moved)) == pytest.approx(np.sort(loads))


def test_latency_adds_up_along_the_path() -> None:
    latency = load_topology("h100-cluster").routes().latency_s
    assert latency[0, 1] == pytest.approx(0.3e-6)  # inside the node
    assert latency[0, 8] == pytest.approx(3e-6)  # same rail, next node
    assert latency[0, 9] == pytest.approx(3.6e-6)  # other rail: over the spine
    assert load_topology("ring-8").routes().latency_s[0, 4] == pytest.approx(4 * 0.3e-6)


def test_a_bytes_joules_add_up_along_its_path() -> None:
    """10 pJ/bit inside a node, 150 between nodes on a rail, twice that over the spine."""
    topology = load_topology("h100-cluster")
    joules = topology.network().j_per_byte
    for target, by_hand in ((1, 80e-12), (8, 1200e-12), (9, 2400e-12)):
        one = np.zeros((96, 96))
        one[0, target] = 1.0
        assert topology.routes().loads(one) @ joules == pytest.approx(by_hand)


def test_devices_behind_a_switch_do_not_forward_for_others() -> None:
    topology = load_topology("h800-cluster")
    one = np.zeros((64, 64))
    one[0, 9] = 1.0
    loads = topology.routes().loads(one)
    net = topology.network()
    touched = {net.nodes[i] for i in [*net.source[loads > 0], *net.target[loads > 0]]}
    assert {name for name in touched if name.startswith("gpu")} == {"gpu0", "gpu9"}


def test_shared_nics_carry_the_traffic_of_their_devices() -> None:
    topology = fat_tree(nics_per_node=1)
    net = topology.network()
    loads = topology.routes().loads(even(8))
    nic = np.array([t == "nic" for t in net.tier])
    assert loads[nic].max() == pytest.approx(2 * 6)


def test_oversubscription_divides_what_a_leaf_sends_up() -> None:
    net = fat_tree().network()
    spine = np.array([t == "spine" for t in net.tier])
    assert net.bandwidth_bytes_per_s[spine] == pytest.approx(50e9 * 2 * 2 / 2)


def test_a_lost_link_is_routed_around_and_a_slow_one_slows() -> None:
    net = load_topology("ring-8").network()
    broken = net.without_link("gpu0", "gpu1")
    assert Routes(broken).latency_s[0, 1] == pytest.approx(7 * 0.3e-6)
    slow = net.with_slow_link("gpu0", "gpu1", 0.25)
    touched = net.between("gpu0", "gpu1")
    assert slow.bandwidth_bytes_per_s[touched] == pytest.approx(225e9 / 4)
    assert slow.bandwidth_bytes_per_s[~touched] == pytest.approx(225e9)


def test_losing_the_only_way_is_an_error_naming_the_device() -> None:
    net = load_topology("nvlink-island").network()
    with pytest.raises(InputError, match=r"disconnected.*gpu3"):
        net.without_link("gpu3", "switch0")
    with pytest.raises(InputError, match="did you mean"):
        net.without_link("gpu3", "swich0")


def test_disconnected_and_dead_topologies_are_refused() -> None:
    cable = {"bandwidth": "1 GB/s", "latency": "1 us", "energy": "1 pJ/bit"}
    island = {"kind": "custom", "gpus": ["a", "b", "c"], "links": [{"between": ["a", "b"], **cable}]}
    with pytest.raises(InputError, match=r"disconnected.*between a and c"):
        Topology.resolve(island).network()
    through = {**island, "links": [{"between": ["a", "b"], **cable}, {"between": ["b", "c"], **cable}]}
    with pytest.raises(InputError, match="disconnected"):
        Topology.resolve(through).network()  # b is no switch: it does not forward
    dead = {**cable, "bandwidth": "0 GB/s"}
    with pytest.raises(InputError, match="a -> b has no bandwidth"):
        Topology.resolve({**island, "gpus": ["a", "b"], "links": [{"between": ["a", "b"], **dead}]}).network()
    with pytest.raises(ValueError, match="neither in gpus nor in switches"):
        Topology.resolve({**island, "links": [{"between": ["a", "d"], **cable}]})


def test_a_topology_without_islands_has_no_fabric() -> None:
    with pytest.raises(InputError, match="'ring' has no islands"):
        load_topology("ring-8").fabric()


def test_every_kind_is_named_by_a_preset_and_every_preset_loads() -> None:
    kinds = {load_topology(name).kind for name in topology_names()}
    assert kinds == set(members(Topology))
    for name in SMALL:
        topology = load_topology(name)
        assert set(topology.graph().edges) == set(topology.network().graph().edges)


def test_a_figure_without_a_source_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "mine.yaml"
    path.write_text(
        "name: mine\ndescription: d\n"
        "topology: {kind: ring, gpus: 4, link: 1 GB/s, link_latency: 1 us, link_energy: 1 pJ/bit}\n"
        "sources: {link: guessed, link_latency: assumed}\n"
    )
    with pytest.raises(InputError, match="guessed"):
        load_topology(str(path))
    path.write_text(path.read_text().replace("guessed", "datasheet"))
    with pytest.raises(InputError, match="link_energy"):
        load_topology(str(path))


def test_a_profile_implies_its_own_node_and_rails_between_nodes() -> None:
    gpu = load_device("h100-sxm")
    node = own_topology(gpu, 8)  # type: ignore[arg-type]
    assert node.kind == "nvlink_island"
    assert node.network().bandwidth_bytes_per_s == pytest.approx(450e9)
    cluster = own_topology(gpu, 90)  # type: ignore[arg-type]
    assert (cluster.kind, cluster.devices) == ("rail_optimised", 96)
    assert cluster.fabric().nic_bytes_per_s == pytest.approx(50e9)
    assert own_topology(load_device("gb200"), 72).kind == "nvlink_island"  # type: ignore[arg-type]


def test_devices_without_a_link_cannot_be_joined() -> None:
    alone = load_device("h100-sxm").model_copy(update={"link": None})
    with pytest.raises(InputError, match="h100-sxm has no link"):
        own_topology(alone, 2)  # type: ignore[arg-type]
    local = load_device("h100-sxm").model_copy(update={"nic": None})
    with pytest.raises(InputError, match="h100-sxm has no NIC"):
        own_topology(local, 16)  # type: ignore[arg-type]
