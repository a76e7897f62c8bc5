"""Every op of every rank: equal to the closed form where nothing contends, and what contention, skew and faults add."""

import json
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from sparsesim import laws
from sparsesim.cost.network.fitted import load_kernels
from sparsesim.cost.network.moe import dispatch_loads
from sparsesim.cost.network.overlap import two_batch
from sparsesim.cost.network.placement import Placement
from sparsesim.cost.network.routing import Routing, Visits, visits
from sparsesim.errors import InputError
from sparsesim.hardware.topology import Routes, load_topology
from sparsesim.sim.network import Flow
from sparsesim.sim.op_detail import (
    Exchange,
    Exchanges,
    Local,
    Program,
    Timeline,
    Transfer,
    expected_s,
    program,
    shared_during_dispatch,
    simulate_ops,
    with_jitter,
    with_slow_rank,
)
from sparsesim.work import AllReduce, Gemm, MoeCombine, MoeDispatch, MoeFfn, Op, Task

HBM = 3.35e12
ONE_LINK = np.array([1e9])


def even_flow(seconds: float) -> Flow:
    """Over one link of 1 GB/s."""
    return Flow(np.array([seconds * 1e9]))


def run(*programs: Program, ranks: int = 4, background: tuple[Transfer, ...] = ()) -> Timeline:
    return simulate_ops(programs, ranks, ONE_LINK, HBM, background)


def layers(compute: float, network: float, count: int) -> Program:
    layer = (
        Local("attention", compute / 2),
        Exchange("dispatch", (even_flow(network / 2),)),
        Local("experts", compute / 2),
        Exchange("combine", (even_flow(network / 2),)),
    )
    return layer * count


def test_even_ranks_take_the_sum_of_their_ops() -> None:
    timeline = run(layers(2.0, 1.0, 5))
    assert timeline.end_s == pytest.approx(15.0)
    assert timeline.busy_s(0) == pytest.approx([10.0] * 4)
    assert timeline.busy_s(2) == pytest.approx([5.0] * 4)
    assert timeline.waited_s() == pytest.approx([0.0] * 4)


def test_the_slowest_rank_holds_up_the_others_at_every_exchange() -> None:
    skewed = Local("experts", np.array([1.0, 1.0, 1.0, 3.0]))
    other = Local("attention", np.array([2.0, 1.0, 1.0, 1.0]))
    steps = (skewed, Exchange("combine", (even_flow(0.5),)), other, Exchange("all_reduce", (even_flow(0.5),)))
    timeline = run(steps)
    assert timeline.end_s == pytest.approx(3 + 0.5 + 2 + 0.5)
    assert timeline.end_s == pytest.approx(expected_s(steps, 4, ONE_LINK))
    assert timeline.waited_s() == pytest.approx([2.0, 3.0, 3.0, 1.0])


def test_groups_wait_only_for_their_own() -> None:
    pairs = Exchange("all_reduce", (Flow(np.zeros(1), 1.0), Flow(np.zeros(1), 1.0)), np.array([0, 0, 1, 1]))
    timeline = run((Local("mlp", np.array([1.0, 2.0, 5.0, 1.0])), pairs, Local("norm", 1.0)))
    ends = {rank: end for rank, lane, part, _, end, _ in timeline.rows if part == "norm"}
    assert ends == pytest.approx({0: 4.0, 1: 4.0, 2: 7.0, 3: 7.0})


def test_shared_experts_hide_behind_the_dispatch() -> None:
    steps: Program = (
        Exchange("moe.dispatch", (even_flow(2.0),)),
        Local("moe.shared", 1.5),
        Local("moe.experts", 1.0),
    )
    assert run(steps).end_s == pytest.approx(4.5)
    hidden = shared_during_dispatch(steps)
    assert run(hidden).end_s == pytest.approx(3.0)
    assert expected_s(hidden, 4, ONE_LINK) == pytest.approx(3.0)


@pytest.mark.parametrize(("compute", "network"), [(4.0, 1.0), (2.0, 2.0), (1.0, 4.0)])
def test_two_batches_approach_the_closed_form(compute: float, network: float) -> None:
    count = 30
    half = layers(compute / 2, network / 2, count)
    ideal = count * two_batch(compute / 4, network / 4, compute / 4, network / 4)
    timeline = run(half, half)
    assert ideal * (1 - 1e-9) <= timeline.end_s <= ideal * 1.05
    assert timeline.end_s < run(layers(compute, network, count)).end_s


def test_a_kv_transfer_takes_half_of_a_link_it_shares() -> None:
    transfer = Transfer("kv", 0.0, even_flow(1.0))
    steps: Program = (Exchange("dispatch", (even_flow(1.0),)),)
    assert run(steps, background=(transfer,)).end_s == pytest.approx(2.0)


def test_a_background_read_slows_kernels_that_are_bound_by_memory_and_no_others() -> None:
    """For 1 s a transfer reads a quarter of the bandwidth; a kernel that needs all of it loses a third of a second."""
    transfer = Transfer("kv", 0.0, even_flow(1.0), {0: HBM / 4})
    bound = run((Local("decode", 2.0, 2.0 * HBM),), background=(transfer,))
    ends = {rank: end for rank, lane, _, _, end, _ in bound.rows if lane == 0}
    assert ends[0] == pytest.approx(2.25)  # 3/4 of a second's work done in the first second
    assert ends[1] == pytest.approx(2.0)
    light = run((Local("gemm", 2.0, 0.5 * HBM),), background=(transfer,))
    assert light.end_s == pytest.approx(2.0)


def test_slow_ranks_and_jitter_only_ever_cost_time() -> None:
    steps = layers(2.0, 1.0, 10)
    assert run(with_slow_rank(steps, 2, 1.5, 4)).end_s == pytest.approx(10 * (2 * 1.5 + 1))
    assert run(with_jitter(steps, 0.2, 4, seed=1)).end_s > run(steps).end_s
    assert run(with_jitter(steps, 0.2, 4, seed=1)).end_s == run(with_jitter(steps, 0.2, 4, seed=1)).end_s
    with pytest.raises(InputError, match="slow rank 4 by 2"):
        with_slow_rank(steps, 4, 2.0, 4)


RANKS, NODES = 96, 12
GEMM = Gemm(m=128, n=4096, k=4096)
SIZES = {"ranks": RANKS, "nodes": NODES, "tokens": 128, "d_model": 7168, "top_k": 8, "experts": 256}
DISPATCH, COMBINE = MoeDispatch(**SIZES), MoeCombine(**SIZES)
EXPERTS = MoeFfn(tokens=RANKS * 128, d_model=7168, d_ff=2048, top_k=8, experts=256)


def routed(exponent: float) -> tuple[Visits, np.ndarray]:
    load = laws.inclusion_probabilities(laws.zipf_popularity(256, exponent), 8)
    assignment = Placement.resolve({"kind": "replicated", "redundant": 32}).place(load, RANKS)
    ranks = assignment.rank_load(load)
    return visits(Routing(load, 8, 8, 4), assignment, 8), ranks / ranks.mean()


def moe_step(routes: Routes, exponent: float, depth: int) -> Program:
    fabric = load_topology("h100-cluster").fabric()
    at, imbalance = routed(exponent)
    dispatch, combine = load_kernels("h800-deepep")

    def alone_s(op: Op) -> float:
        assert isinstance(op, MoeDispatch | MoeCombine)
        loads = dispatch_loads(float(op.tokens), at, float(op.token_bytes()), fabric, "low_latency")
        if isinstance(op, MoeDispatch):
            return dispatch.time_s(loads, fabric, NODES)
        return combine.time_s(loads.reversed(), fabric, NODES)

    exchanges = Exchanges(routes, 8, alone_s, {RANKS: np.arange(RANKS)[None]}, RANKS, at)

    def cost(task: Task) -> Local | Exchange:
        if isinstance(task.op, MoeDispatch | MoeCombine):
            return exchanges(task)
        return Local(task.part, 100e-6 * imbalance if isinstance(task.op, MoeFfn) else 10e-6, 2e7)

    attention = [Task(f"attention.{i}", GEMM, depth) for i in range(12)]
    moe = [Task("moe.dispatch", DISPATCH, depth), Task("moe.shared", GEMM, depth)]
    return program([*attention, *moe, Task("moe.experts", EXPERTS, depth), Task("moe.combine", COMBINE, depth)], cost)


def test_a_decode_step_of_96_ranks_and_61_layers_agrees_with_the_closed_form_in_under_10_s() -> None:
    topology = load_topology("h100-cluster")
    capacity = topology.network().bandwidth_bytes_per_s
    steps = moe_step(topology.routes(), 0.8, 61)
    assert len(steps) == 61 * 16
    start = perf_counter()
    timeline = simulate_ops([steps], RANKS, capacity, HBM)
    assert perf_counter() - start < 10.0
    assert timeline.end_s == pytest.approx(expected_s(steps, RANKS, capacity), rel=0.02)
    sent = 61 * RANKS * 128 * 8 * (float(DISPATCH.token_bytes()) + float(COMBINE.token_bytes()))
    assert timeline.energy_j(topology.network().j_per_byte) < sent * (80e-12 + 2 * 1200e-12)  # at most over the spine
    assert timeline.link_bytes.sum() > sent * 2 * 0.9  # nearly all leave their rank, over two links at least


def test_a_lost_link_is_routed_around_at_a_cost() -> None:
    """Without its NIC link a device of a switched node is cut off; a torus goes around."""
    torus = load_topology("torus-4x4x4")
    whole, broken = torus.network(), torus.network().without_link("gpu0", "gpu1")
    even = np.full((64, 64), 1e6)
    seconds = []
    for network in (whole, broken):
        exchange = Exchange("all_to_all", (Flow(Routes(network).loads(even)),))
        seconds.append(simulate_ops([(exchange,)], 64, network.bandwidth_bytes_per_s, HBM).end_s)
    assert seconds[0] == pytest.approx(32 * 1e6 / 75e9)
    assert seconds[1] > seconds[0] * 1.1


def test_tensor_parallel_groups_reduce_side_by_side() -> None:
    topology = load_topology("h100-cluster")
    groups = np.arange(RANKS).reshape(-1, 8)
    exchanges = Exchanges(topology.routes(), 8, lambda _: 1e-5, {8: groups}, RANKS)
    step = exchanges(Task("attention.all_reduce", AllReduce(gpus=8, bytes=8e6)))
    assert len(step.flows) == 12
    busiest = step.flows[0].busiest_bytes
    assert busiest == pytest.approx(2 * 7 / 8 * 8e6)
    timeline = simulate_ops([(step,)], RANKS, topology.network().bandwidth_bytes_per_s, HBM)
    assert timeline.end_s == pytest.approx(busiest / 450e9)  # slower than 10 us: the links bind


def test_the_trace_opens_in_perfetto(tmp_path: Path) -> None:
    timeline = run(layers(2.0, 1.0, 2))
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in complete} == {0, 1, 2, 3}
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"compute", "memory", "link"}
    for lane in (0, 2):
        row = sorted((e["ts"], e["ts"] + e["dur"]) for e in complete if e["pid"] == 1 and e["tid"] == lane)
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(row))
    assert max(e["ts"] + e["dur"] for e in complete) == pytest.approx(timeline.end_s * 1e6)


def test_what_does_not_fit_together_is_an_error() -> None:
    with pytest.raises(InputError, match="exchange 'x' has 1 flows for groups"):
        run((Exchange("x", (even_flow(1.0),), np.array([0, 0, 1, 1])),))
    with pytest.raises(InputError, match="op 'gemm' has a time of -1"):
        run((Local("gemm", -1.0),))
    with pytest.raises(InputError, match=r"whole number of times, not gemm: 2\.5"):
        program([Task("gemm", GEMM, 2.5)], lambda task: Local(task.part, 1.0))
    exchanges = Exchanges(load_topology("nvlink-island").routes(), 8, lambda _: 0.0, {8: np.arange(8)[None]}, 8)
    with pytest.raises(InputError, match="all_reduce of 'ar' over 4 ranks; groups of 8 ranks"):
        exchanges(Task("ar", AllReduce(gpus=4, bytes=1.0)))
    with pytest.raises(InputError, match="gemm of 'mlp' does not communicate"):
        exchanges(Task("mlp", GEMM))
