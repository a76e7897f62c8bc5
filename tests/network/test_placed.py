"""A replica's cost model on a topology: what placement, skew and the fabric change, and what they leave alone."""

from dataclasses import replace

import numpy as np
import pytest

from sparsesim.cost.kernel import cost_model
from sparsesim.cost.network.placed import PlacedCosts, deployed_costs, expert_groups, placed_costs
from sparsesim.cost.network.placement import Placement
from sparsesim.cost.step import ReplicaSteps
from sparsesim.cost.tables import StepTables
from sparsesim.errors import InputError
from sparsesim.hardware.engine import load_engine
from sparsesim.hardware.profile import load_device
from sparsesim.hardware.topology import Topology, load_topology, own_topology
from sparsesim.model.load import read_load
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model
from sparsesim.work import AllReduce, Gemm, MoeCombine, MoeDispatch

GPU = load_device("h100-sxm")
MODEL = load_model("qwen3-30b-a3b")
SETTING = Setting(dp=16, ep=16)
COSTS = cost_model(GPU)  # type: ignore[arg-type]
CONTIGUOUS, UNIFORM = Placement.resolve("contiguous"), read_load("uniform")
OWN = own_topology(GPU, 16)  # type: ignore[arg-type]


def placed(load: str = "uniform", placement: object = "contiguous", topology: Topology = OWN) -> PlacedCosts:
    return placed_costs(COSTS, MODEL, SETTING, topology, Placement.resolve(placement), read_load(load))


def dispatch(tokens: float = 128.0) -> MoeDispatch:
    return MoeDispatch(ranks=16, nodes=2, tokens=tokens, d_model=2048, top_k=8, experts=128)


def decode_s(costs: PlacedCosts) -> float:
    steps = ReplicaSteps(StepTables(MODEL, SETTING, costs), load_engine("vllm"), 16)
    return float(steps.decode(16 * 256).base[0])


def test_even_routing_on_the_own_topology_changes_no_kernel() -> None:
    gemm = Gemm(m=64, n=4096, k=4096)
    assert placed().cost(gemm).time_s == pytest.approx(COSTS.cost(gemm).time_s, rel=1e-9)


def test_the_throughput_kernels_send_a_token_once_to_a_node() -> None:
    """8 of 128 experts on 2 nodes of 8: 0.997 copies cross; a rank is visited with 1 - C(120,8)/C(128,8) = 0.411."""
    ops = [replace(dispatch(tokens), mode="throughput") for tokens in (10_000.0, 20_000.0)]
    first, second = (float(placed().cost(op).time_s) for op in ops)
    size = float(dispatch().token_bytes())
    nic = 0.997 * 10_000 * size / (0.9 * 50e9)
    link = 2 * 7 * 0.411 * 10_000 * size / (0.6 * 450e9)  # every device spreads its own tokens and those off its rail
    assert second - first == pytest.approx((nic**4 + link**4) ** 0.25, rel=0.01)


@pytest.mark.parametrize(
    ("ranks", "dispatch_us", "combine_us"), [(8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314)]
)
def test_the_published_kernels_come_out_of_an_h800_replica(ranks: int, dispatch_us: float, combine_us: float) -> None:
    """128 tokens a rank of 7,168, top 8 of 256, as in the DeepEP table."""
    gpu, model, setting = load_device("h800-sxm"), load_model("deepseek-v3"), Setting(dp=ranks, ep=ranks)
    costs = deployed_costs(cost_model(gpu), model, setting, None, CONTIGUOUS, UNIFORM)  # type: ignore[arg-type]
    sizes = {"ranks": ranks, "nodes": ranks // 8, "tokens": 128, "d_model": 7168, "top_k": 8, "experts": 256}
    for op, measured in ((MoeDispatch(**sizes), dispatch_us), (MoeCombine(**sizes), combine_us)):
        cost = costs.cost(op)
        assert float(cost.time_s) == pytest.approx(measured * 1e-6, rel=0.05)
        assert cost.provenance == "published, fitted as h800-deepep"
        assert abs(np.log(float(cost.time_s) / measured / 1e-6)) < float(cost.half_width)


def test_energy_of_dispatch_counts_bytes_inside_and_between_nodes() -> None:
    per_byte = 8 * (7 / 16 * 80e-12 + 8 / 16 * 1200e-12)  # 8 copies: 7 in 16 to the node's others, 8 to the other node
    cost = placed().cost(dispatch(1.0))
    assert float(cost.link_j) == pytest.approx(per_byte * float(dispatch().token_bytes()))


def test_the_interval_widens_beyond_the_nodes_that_were_measured() -> None:
    setting = Setting(dp=128, ep=128)
    wide = deployed_costs(COSTS, MODEL, setting, None, CONTIGUOUS, UNIFORM)
    far = replace(dispatch(), ranks=128.0, nodes=16.0)
    assert float(wide.cost(far).half_width) == pytest.approx(float(placed().cost(dispatch()).half_width) + 0.5)


def test_no_tokens_take_no_time() -> None:
    assert placed().cost(replace(dispatch(), tokens=np.array([0.0, 1.0]))).time_s[0] == 0.0


def test_skew_lengthens_dispatch_in_proportion_to_tokens() -> None:
    for mode in ("low_latency", "throughput"):
        costs, even = placed("zipf:0.8"), placed()
        ops = [replace(dispatch(tokens), mode=mode) for tokens in (10_000.0, 20_000.0)]
        extra = [float(costs.cost(op).time_s - even.cost(op).time_s) for op in ops]
        assert 0 < extra[0] == pytest.approx(extra[1] / 2)


def test_replication_takes_back_most_of_the_skew_of_a_step() -> None:
    even, skewed = decode_s(placed()), decode_s(placed("zipf:0.8"))
    eplb = decode_s(placed("zipf:0.8", {"kind": "replicated", "redundant": 32}))
    assert skewed > 1.05 * even
    assert eplb < even + 0.3 * (skewed - even)


def test_twice_the_nic_halves_what_the_nic_takes() -> None:
    slow, fast = (OWN.model_copy(update={"nic": OWN.nic * share}) for share in (0.25, 0.5))  # type: ignore[attr-defined]
    big = dispatch(100_000.0)
    slow_s, fast_s = (float(placed(topology=t).cost(big).time_s) for t in (slow, fast))
    assert fast_s == pytest.approx(slow_s / 2, rel=0.02)


def test_an_oversubscribed_spine_costs_time_only_when_crossed() -> None:
    crossing = {"nodes_per_leaf": 1, "oversubscription": 4.0}
    narrow = OWN.model_copy(update=crossing)
    assert float(placed(topology=narrow).cost(dispatch()).time_s) > float(placed().cost(dispatch()).time_s)
    together = OWN.model_copy(update={"oversubscription": 4.0})  # both nodes under the same leaves, one rail each
    same_rail = replace(dispatch(), mode="throughput")
    assert placed(topology=together).cost(same_rail).time_s == pytest.approx(placed().cost(same_rail).time_s)


def test_collectives_feel_the_spine_and_switches_that_add_up() -> None:
    size = 2.0**28
    reduce, across = AllReduce(gpus=8.0, bytes=size), AllReduce(gpus=16.0, nodes=2.0, bytes=size)
    narrow = OWN.model_copy(update={"nodes_per_leaf": 1, "oversubscription": 4.0})
    apart = OWN.model_copy(update={"nodes_per_leaf": 1})
    slow, level = (float(placed(topology=t).cost(across).time_s) for t in (narrow, apart))
    link, nic = 0.8224 * 450e9, 0.97 * 50e9
    ring = 2 * size * 15 / 16 / 8 / nic  # a ring out of every NIC, which hides the links
    by_level = 2 * (size * 7 / 8 / link + 4 * size / 8 / 2 / nic)  # inside, then half of every shard along the rails
    assert slow - level == pytest.approx(by_level - ring, rel=0.01)
    adding = OWN.model_copy(update={"in_switch_reduction": True})
    saved = float(placed().cost(reduce).time_s - placed(topology=adding).cost(reduce).time_s)
    switch = 0.6858 * 450e9  # bus bandwidths of 370 GB/s without and 480 with, published
    assert saved == pytest.approx(size * (2 * 7 / 8 / link - 9 / 8 / switch), rel=0.02)
    small = AllReduce(gpus=8.0, bytes=1024.0)
    assert placed(topology=adding).cost(small).time_s == pytest.approx(placed().cost(small).time_s)


def test_one_island_of_72_keeps_dispatch_off_the_nics() -> None:
    island = load_topology("nvl72")
    op = replace(dispatch(), nodes=1.0)
    cost = placed(topology=island).cost(op)
    assert cost.provenance == "published, fitted as gb200-nvl72"
    assert float(cost.time_s) < 0.5 * float(placed().cost(dispatch()).time_s)


def test_the_number_of_draws_is_enough() -> None:
    load, placement = read_load("zipf:0.8"), Placement.resolve("contiguous")
    few, many = (
        np.mean([g.imbalance.max() for g in expert_groups(MODEL, SETTING, placement, load, 8, n)[128, 8]])
        for n in (8, 64)
    )
    assert few == pytest.approx(many, rel=0.05)


def test_many_tokens_go_once_to_a_node_and_few_straight_to_their_experts() -> None:
    """8 of 128 experts on 2 nodes: 4 copies go to the other node, or (deduplicated) 1 - C(64,8)/C(128,8) = 0.997."""
    costs = placed()
    few, many = dispatch(200.0), dispatch(20_000.0)
    both = costs.cost(replace(dispatch(), tokens=np.array([200.0, 20_000.0])))
    assert both.time_s == pytest.approx([float(costs.cost(op).time_s) for op in (few, many)])
    assert costs.cost(many).kernel_class == "moe_dispatch.throughput"
    assert costs.cost(few).kernel_class == "moe_dispatch.h800-deepep"
    assert float(costs.cost(many).time_s) < 100 * float(costs.cost(few).time_s) / 2


def test_on_its_own_node_without_spread_experts_the_cost_model_stays() -> None:
    assert deployed_costs(COSTS, MODEL, Setting(), None, CONTIGUOUS, UNIFORM) is COSTS
    assert deployed_costs(COSTS, MODEL, Setting(tp=4), None, CONTIGUOUS, UNIFORM) is COSTS
    own = deployed_costs(COSTS, MODEL, SETTING, None, Placement.resolve("balanced"), read_load("zipf:0.8"))
    assert isinstance(own, PlacedCosts)
    assert (own.fabric.nodes, own.power.nic_j_per_byte) == (2, COSTS.power.nic_j_per_byte)
    named = deployed_costs(COSTS, MODEL, SETTING, load_topology("nvl72"), CONTIGUOUS, UNIFORM)
    assert named.chip.link_bytes_per_s == pytest.approx(900e9)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="16 devices of a replica on a topology of 8"):
        placed(topology=load_topology("nvlink-island"))
    with pytest.raises(InputError, match="'torus' has no islands"):
        placed(topology=load_topology("torus-4x4x4"))
    with pytest.raises(InputError, match="128 experts"):
        placed(placement={"kind": "replicated", "redundant": 3})
    with pytest.raises(InputError, match="routes 2 of 4 experts"):
        placed().cost(replace(dispatch(), top_k=2, experts=4))
    with pytest.raises(InputError, match=r"deployment.placement.*balanced: .* with ep 1 spreads no experts"):
        deployed_costs(COSTS, MODEL, Setting(dp=2), None, Placement.resolve("balanced"), UNIFORM)
    with pytest.raises(InputError, match="a replica of one device has nothing to link"):
        deployed_costs(COSTS, MODEL, Setting(), load_topology("nvl72"), CONTIGUOUS, UNIFORM)
