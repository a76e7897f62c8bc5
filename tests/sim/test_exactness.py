"""Leaping changes nothing: random workloads agree with the plain one-iteration-at-a-time reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Disaggregated, Reference
from step_models import Affine

from sparsesim.sim.fleet import Fleet
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import close, run
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.schedulers.sglang import Sglang
from sparsesim.sim.schedulers.static import Static
from sparsesim.sim.speculation import Speculation
from sparsesim.sim.transfer import PointToPoint
from sparsesim.workload.requests import PrefixBlocks, RequestTable

INF = math.inf
MODELS = st.sampled_from(
    [
        Affine(),
        Affine(base_s=0.01, per_sequence_s=0.0, per_context_s=0.0, per_token_s=0.0, per_attended_s=0.0),  # ties abound
        Affine(per_context_s=2e-6, knots=(0.0, 20.0, 45.5, 80.0, 1e6)),
        Affine(per_context_s=2e-6, windows=(INF, 24.0)),
        Affine(per_context_s=2e-6, windows=(INF, 40.0, 17.0), knots=(1.0, 16.0, 30.0, 1e6)),
        Affine(windows=()),
    ]
)


@st.composite
def tables(draw, replicas):
    """Up to thirty requests, many at equal times; open, closed, or sessions.

    Requests that come in the same instant out of different sums of times have no order: think times are all
    different, or nothing on a single replica (two replicas may finish requests at once).
    """
    count = draw(st.integers(1, 30))
    ints = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))  # noqa: E731
    gap = draw(st.sampled_from([0.0, 0.005, 0.01, 0.0137, 0.1]))
    arrival = np.cumsum(ints(0, 4)) * gap
    think = ints(0, 3) * gap
    think = np.where((think > 0) | (replicas > 1), think + 1e-3 + 1.7e-5 * np.arange(count), 0.0)
    others = {"priority": ints(0, 2), "think_s": think}
    mode = draw(st.sampled_from(["open", "closed", "sessions"]))
    if mode == "closed":
        others["concurrency"] = draw(st.integers(1, 8))
    if mode == "sessions":
        others["follows"] = np.array([draw(st.integers(-1, i - 1)) if i else -1 for i in range(count)])
    prompt = ints(1, 120)
    if draw(st.booleans()):
        others["prefix_blocks"] = draw(prefixes(prompt))
    return RequestTable.of(arrival, prompt, ints(1, 60), **others)


@st.composite
def prefixes(draw, prompt):
    """Block ids of prompts that follow one of three conversations for a while, and then nobody."""
    block_tok = draw(st.sampled_from([16, 32]))
    rows = []
    for row, tokens in enumerate(prompt.tolist()):
        blocks = -(-tokens // block_tok)
        talk, shared = draw(st.integers(1, 3)), draw(st.integers(0, blocks))
        rows.append([talk * 100 + i if i < shared else (row + 1) * 1000 + i for i in range(blocks)])
    offsets = np.cumsum([0, *map(len, rows)])
    return PrefixBlocks(np.array([one for row in rows for one in row], np.int64), offsets, block_tok)


@st.composite
def specs(draw, count, blocks):
    """Replicas from roomy to so tight that requests are preempted again and again."""
    block_tok = draw(st.sampled_from([1, 4, 16]))
    cached = blocks is not None and draw(st.booleans())
    windows = st.sampled_from([(INF,), (INF,), (), (INF, 24.0), (32.0,), (INF, INF, 7.0)])
    spec = ReplicaSpec(
        draw(MODELS),
        kv_blocks=draw(st.integers(150, 600)) // block_tok,
        max_context=draw(st.sampled_from([150, 1000])),
        block_tok=block_tok,
        state_slots=draw(st.sampled_from([None, None, 0, 3])),
        kv_windows=(INF,) if cached else draw(windows),
        prefix_cache=draw(st.sampled_from(["pool", "unbounded"])) if cached else "off",
        host_blocks=draw(st.sampled_from([0, 0, 30, 200])),
        swap_s_per_block=draw(st.sampled_from([0.0, 1e-4])),
    )
    return [spec] * count


@st.composite
def continuous(draw, swap=False):
    places = draw(st.integers(1, 12))
    budget = draw(st.one_of(st.just(places), st.integers(places, 64), st.just(2048)))
    return Continuous(
        max_running=places,
        token_budget=budget,
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        preemption="swap" if swap and draw(st.booleans()) else "recompute",
    )


@st.composite
def speculative(draw):
    law = Speculation(draft_tok=draw(st.integers(1, 5)), acceptance=draw(st.sampled_from([0.0, 0.5, 0.9])))
    return draw(continuous()).model_copy(update={"speculation": law})


@st.composite
def sglang(draw):
    return Sglang(
        max_running=draw(st.integers(1, 12)),
        token_budget=draw(st.one_of(st.integers(1, 64), st.just(8192))),
        new_token_ratio=draw(st.sampled_from([0.0, 0.3, 1.0])),
        policy=draw(st.sampled_from(["fcfs", "lpm"])),
    )


def schedulers(swap):
    return st.one_of(continuous(swap), sglang(), st.builds(Static, batch=st.integers(1, 6)))


ROUTERS = st.sampled_from([RoundRobin(), LeastOutstanding()])


def assert_empty(replica):
    """Blocks allocated equal blocks freed, and every aggregate is back at nothing."""
    assert replica.free == replica.spec.kv_blocks
    assert (replica.decoding, replica.context, replica.phased) == (0, 0, 0)
    assert (replica.outstanding, replica.asked_tok) == (0, 0)
    assert not any(replica.phase)
    assert not replica.running
    assert all(window.attended == window.growing == 0 for window in replica.windows)


def assert_same(records, reference):
    """The same decisions, and times within 1e-9 relative."""
    requests, seqs = records.requests, reference.seqs
    for name, values in {
        "outcome": [s.outcome for s in seqs],
        "replica": [s.replica for s in seqs],
        "preemptions": [s.preemptions for s in seqs],
        "cached_tok": [s.cached for s in seqs],
    }.items():
        assert requests[name].tolist() == values, name
    for name, values in {
        "arrival_s": [s.arrival_s for s in seqs],
        "admitted_s": [s.admitted_s for s in seqs],
        "first_token_s": [s.first_s for s in seqs],
        "finish_s": [s.finish_s for s in seqs],
    }.items():
        np.testing.assert_allclose(requests[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    for replica in reference.replicas:
        assert_same_steps(records, replica)


def assert_same_steps(records, replica):
    """Every boundary that the rows imply is one of the reference, and the joules of each component add up to its."""
    steps = {name: column[records.steps["replica"] == replica.index] for name, column in records.steps.items()}
    rows = zip(*(steps[name].tolist() for name in ("start_s", "first_s", "slope_s", "iterations")), strict=True)
    implied = [t + a * j + b * j * (j - 1) / 2 for t, a, b, m in rows for j in range(1, int(m) + 1)]
    np.testing.assert_allclose(implied, replica.boundaries, rtol=1e-9, atol=1e-12)
    joules = [steps[f"{component}_j"].sum() for component in records.components]
    np.testing.assert_allclose(joules, replica.energy_j, rtol=1e-9)
    if len(implied):
        assert steps["kv_blocks"].min() >= 0
        assert steps["kv_blocks"].max() <= replica.spec.kv_blocks


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_leaps_equal_single_iterations_in_disaggregated_pools(data):
    # transfers take time: a request handed on in the instant of a boundary of its decode replica has no order with it
    table = data.draw(tables(2))
    prefill = PoolSpec(
        data.draw(specs(data.draw(st.integers(1, 2)), table.prefix_blocks)), RoundRobin(), data.draw(continuous())
    )
    roomy = replace(prefill.replicas[0], kv_blocks=data.draw(st.integers(150, 600)) // prefill.replicas[0].block_tok)
    rules = data.draw(st.one_of(continuous(), speculative()))
    decode = PoolSpec([roomy] * data.draw(st.integers(1, 2)), data.draw(ROUTERS), rules)
    transfer = PointToPoint(
        latency_s=data.draw(st.sampled_from([0.00041, 0.0042])),
        bytes_per_s=data.draw(st.sampled_from([INF, 1e6])),
        bytes_per_tok=77.0,
    )
    fleet = Fleet(table, prefill, decode, transfer)
    run(fleet, None)
    records = close(fleet, partial=False)
    for replica in fleet.replicas:
        assert_empty(replica)
    reference = Disaggregated(table, prefill, decode, transfer).run()
    reference.replicas += reference.targets
    assert_same(records, reference)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_leaps_equal_single_verify_steps(data):
    count = data.draw(st.integers(1, 3))
    table = data.draw(tables(count))
    replicas = data.draw(specs(count, table.prefix_blocks))
    scheduler, router = data.draw(speculative()), data.draw(ROUTERS)
    fleet = Fleet(table, PoolSpec(replicas, router, scheduler))
    run(fleet, None)
    records = close(fleet, partial=False)
    for replica in fleet.replicas:
        assert_empty(replica)
    finished = records.requests["outcome"] == "finished"
    assert records.steps["output_tok"].sum() == table.output_tok[finished].sum()
    assert_same(records, Reference(table, replicas, router, scheduler).run())


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_leaps_equal_single_iterations(data):
    count = data.draw(st.integers(1, 3))
    table = data.draw(tables(count))
    replicas = data.draw(specs(count, table.prefix_blocks))
    scheduler, router = data.draw(schedulers(swap=replicas[0].prefix_cache == "off")), data.draw(ROUTERS)
    fleet = Fleet(table, PoolSpec(replicas, router, scheduler))
    run(fleet, None)
    records = close(fleet, partial=False)
    for replica in fleet.replicas:
        assert_empty(replica)
    assert_same(records, Reference(table, replicas, router, scheduler).run())
