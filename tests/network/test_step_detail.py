"""A model's step op by op: order of layers, agreement with the sum of its ops, skew, placement and overlap."""

from functools import partial

import numpy as np
import pytest

from sparsesim import laws
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.network.expert_parallel import ExpertParallel, expert_parallel
from sparsesim.cost.network.placement import Placement
from sparsesim.errors import InputError
from sparsesim.hardware.profile import load_device
from sparsesim.hardware.topology import load_topology
from sparsesim.model.arch import Batch
from sparsesim.model.load import read_load
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model
from sparsesim.sim.op_detail import Cluster, StepDetail, layer_tasks, simulate_step, with_slow_rank
from sparsesim.work import MoeDispatch, Op

MODEL = load_model("qwen3-30b-a3b")
COSTS = cost_model(load_device("h100-sxm"))
TOPOLOGY = load_topology("nvlink-island")
CLUSTER = Cluster(TOPOLOGY.routes(), 8, 3.35e12)
SETTING = Setting(dp=8, ep=8)
BATCH = Batch(decode=64.0, context=2000.0)
KEY = (128, 8)


def kernel_s(op: Op) -> np.ndarray:
    return COSTS.cost(op).time_s


def group(exponent: float, kind: str = "contiguous", **fields: object) -> ExpertParallel:
    placement = Placement.resolve({"kind": kind, **fields})
    return expert_parallel(read_load(f"zipf:{exponent}").popularity(128), 8, placement, 8, 8)


def run(experts: ExpertParallel, batch: Batch = BATCH, **options: object) -> StepDetail:
    return simulate_step(MODEL, SETTING, batch, kernel_s, CLUSTER, {KEY: experts}, **options)  # type: ignore[arg-type]


def test_tasks_come_in_the_order_of_layers_and_add_up_to_the_models() -> None:
    ordered = layer_tasks(MODEL, BATCH, SETTING)
    whole = MODEL.tasks(BATCH, SETTING)
    for of in (lambda t: t.count, lambda t: t.count * np.asarray(t.op.flop())):
        body = sum(float(of(t)) for t in whole if not t.part.startswith("embedding"))
        assert sum(float(of(t)) for t in ordered) == pytest.approx(body)
    parts = [task.part for task in ordered]
    assert parts.index("moe.dispatch") < parts.index("moe.experts") < parts.index("moe.combine")


def test_an_even_step_is_the_sum_of_its_ops_within_2_percent() -> None:
    detail = run(group(0.0))
    summed = sum(task.count * float(kernel_s(task.op)) for task in layer_tasks(MODEL, BATCH, SETTING))
    assert detail.timeline.end_s == pytest.approx(summed, rel=0.02)
    assert detail.timeline.end_s == pytest.approx(detail.expected_s, rel=1e-6)


def test_skew_makes_stragglers_at_large_batches_and_replicas_remove_them() -> None:
    many = Batch(decode=1024.0, context=200.0)
    even, skewed = run(group(0.0), many), run(group(0.8), many)
    eplb = run(group(0.8, "replicated", redundant=32), many)
    assert skewed.timeline.end_s > 1.1 * even.timeline.end_s
    waited = skewed.timeline.waited_s()
    assert waited[group(0.8).imbalance.argmax()] == pytest.approx(waited.min())
    assert waited.max() > 0.05 * skewed.timeline.end_s
    assert group(0.8, "replicated", redundant=32).imbalance.max() < 1.05
    lost = skewed.timeline.end_s - even.timeline.end_s
    assert eplb.timeline.end_s < even.timeline.end_s + 0.5 * lost


def test_skew_costs_little_where_reading_weights_is_the_work() -> None:
    """64 tokens a rank: most experts are read whatever the routing (facts: at small batches skew costs nothing)."""
    even, skewed = run(group(0.0)), run(group(0.8))
    assert even.timeline.end_s <= skewed.timeline.end_s < 1.1 * even.timeline.end_s


def test_two_batches_never_beat_the_work_of_one_resource() -> None:
    detail = run(group(0.0), two_batch=True)
    busy = detail.timeline.busy_s(0).max()
    assert busy <= detail.timeline.end_s < detail.expected_s  # some communication is hidden, no compute is lost


def test_a_slow_rank_holds_everybody_up() -> None:
    slow = run(group(0.0), change=partial(with_slow_rank, rank=3, factor=2.0, ranks=8))
    assert slow.timeline.end_s > 1.5 * run(group(0.0)).timeline.end_s
    assert slow.timeline.waited_s()[3] == pytest.approx(0.0, abs=1e-9)


def test_experts_split_over_devices_visit_all_of_them() -> None:
    """4 expert ranks of 2 devices each: both get every token of theirs, twice the copies in all."""
    placement = Placement.resolve("contiguous")
    split = expert_parallel(laws.uniform_popularity(128), 8, placement, 4, 8, ways=2)
    assert split.devices == 8
    assert split.visits.copies.sum() == pytest.approx(16.0)
    assert split.visits.copies[0] == split.visits.copies[1]
    assert split.visits.node.tolist() == [1.0]


def test_split_experts_over_nodes_visit_a_node_once() -> None:
    placement = Placement.resolve("contiguous")
    split = expert_parallel(laws.uniform_popularity(128), 8, placement, 8, 8, ways=2)
    whole = expert_parallel(laws.uniform_popularity(128), 8, placement, 2, 1)
    assert split.visits.node == pytest.approx(whole.visits.node)


def test_the_excess_of_skew_is_proportional_to_tokens_and_zero_when_even() -> None:
    fabric = TOPOLOGY.fabric()
    assert group(0.0).extra_s_per_token(7408.0, fabric, "low_latency") == pytest.approx(0.0, abs=1e-15)
    skewed = group(0.8)
    extra = skewed.extra_s_per_token(7408.0, fabric, "low_latency")
    busiest = skewed.imbalance.max()
    # 8 ranks, one copy a rank in the mean: 7 others send the busiest rank `busiest` copies each, evenly 1
    assert extra == pytest.approx(7 * (busiest - 1.0) * 7408.0 / 450e9, rel=1e-6)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="routes 8 of 128 experts; no expert-parallel group is given"):
        simulate_step(MODEL, SETTING, BATCH, kernel_s, CLUSTER)
    with pytest.raises(InputError, match="pp 2"):
        simulate_step(MODEL, Setting(dp=8, ep=8, pp=2), BATCH, kernel_s, CLUSTER)
    with pytest.raises(InputError, match=r"16 ranks \(tp\*dp\) on a topology of 8 devices"):
        simulate_step(MODEL, Setting(dp=16, ep=16), BATCH, kernel_s, CLUSTER)
    dispatch = next(t.op for t in layer_tasks(MODEL, BATCH, SETTING) if isinstance(t.op, MoeDispatch))
    assert dispatch.ranks == 8
