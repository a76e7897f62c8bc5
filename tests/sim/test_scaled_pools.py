"""Pools of prefill and decode that scale each by its own load: no request, no token and no KV is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.metrics.energy import idle
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.faults import Faults, Outage
from sparsesim.sim.fleet import Fleet
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.run import play, simulate_pools
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.transfer import PointToPoint, SharedLinks
from sparsesim.workload.requests import RequestTable

SPEC = ReplicaSpec(Affine(), kv_blocks=20_000, max_context=100_000)
TEN_MS = ReplicaSpec(Constant(time_s=0.01), kv_blocks=1000, max_context=100_000)
QUICK = Autoscale(least=1, most=8, target=4.0, interval="500 ms", start_up="1 s", patience="1 s")


def pool(scale=None, spec=SPEC, count=1):
    return PoolSpec([spec] * count, LeastOutstanding(), Continuous(max_running=8), scale)


def waves(prompt_tok, output_tok, start_s=0.0, count=400):
    """Requests that swell and ebb twice, fast enough for replicas to come and go."""
    rng = np.random.default_rng(3)
    arrival = [start_s + begin + rng.triangular(0, 10, 20, count // 2) for begin in (0, 40)]
    return np.sort(np.concatenate(arrival)), np.full(count, prompt_tok), np.full(count, output_tok)


def on_s(records, role):
    mine = records.replicas["role"] == role
    return float((records.replicas["down_s"] - records.replicas["up_s"])[mine].sum())


def most_at_once(records, role):
    mine = records.replicas["role"] == role
    ends = [(records.replicas[name][mine], change) for name, change in (("up_s", 1), ("down_s", -1))]
    times = np.concatenate([times for times, _ in ends])
    changes = np.concatenate([np.full(len(times), change) for times, change in ends])
    return int(np.cumsum(changes[np.lexsort((changes, times))]).max())


def test_each_pool_follows_its_own_requests():
    # long prompts with few tokens to generate, and then the reverse
    parts = [waves(8000, 2), waves(20, 400, start_s=150.0)]
    table = RequestTable.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    records = simulate_pools(table, pool(QUICK), pool(QUICK), PointToPoint(latency_s=0.001))
    assert (records.requests["outcome"] == "finished").all()
    started = records.events["event"] == "replica_starting"
    early = records.events["time_s"] < 150.0
    roles = dict(zip(records.replicas["replica"].tolist(), records.replicas["role"].tolist(), strict=True))
    role = np.array([roles[int(one)] for one in records.events["replica"][started]])
    assert set(role[early[started]]) == {"prefill"}
    assert set(role[~early[started]]) == {"decode"}
    assert 1 < most_at_once(records, "prefill") <= 8
    assert 1 < most_at_once(records, "decode") <= 8


@pytest.mark.parametrize("shared", [False, True])
def test_replicas_that_come_and_go_lose_neither_requests_nor_kv(shared):
    table = RequestTable.of(*waves(1000, 150))
    # a transfer takes longer than it takes to find a replica superfluous
    moved = PointToPoint(latency_s=3.0)
    if shared:
        moved = SharedLinks(out_bytes_per_s=1e7, in_bytes_per_s=1e7, latency_s=2.0, bytes_per_tok=1e3)
    records = simulate_pools(table, pool(QUICK), pool(QUICK), moved)
    assert (records.requests["outcome"] == "finished").all()
    assert len(set(records.replicas["replica"].tolist())) > 6
    assert (records.events["event"] == "replica_down").sum() > 3
    # every prompt is computed once: no decode replica had to do it again
    assert records.steps["prefill_tok"].sum() == table.prompt_tok.sum()
    assert records.steps["output_tok"].sum() == table.output_tok.sum()
    assert (records.events["event"] == "transferred").sum() == len(table)


def test_a_replica_works_and_draws_power_only_while_it_is_on():
    table = RequestTable.of(*waves(1000, 150))
    records = simulate_pools(table, pool(QUICK), pool(QUICK), PointToPoint(latency_s=3.0))
    steps, replicas = records.steps, records.replicas
    up, down = (
        {int(r): t for r, t in zip(replicas["replica"], replicas[end], strict=True)} for end in ("up_s", "down_s")
    )
    assert all(up[r] <= start for r, start in zip(steps["replica"], steps["start_s"], strict=True))
    assert all(end <= down[r] + 1e-6 for r, end in zip(steps["replica"], steps["end_s"], strict=True))
    # between its steps it draws 70 or 120 W, and nothing before or after
    between = idle(records)
    stepping = float((steps["end_s"] - steps["start_s"]).sum())
    on = on_s(records, "prefill") + on_s(records, "decode")
    assert (between.end_s - between.start_s).sum() == pytest.approx(on - stepping)
    assert 70 * (on - stepping) < between.energy_j.sum() < 120 * (on - stepping)
    fixed = simulate_pools(table, pool(count=8), pool(count=8), PointToPoint(latency_s=3.0))
    assert on < on_s(fixed, "prefill") + on_s(fixed, "decode")
    assert between.energy_j.sum() < idle(fixed).energy_j.sum()


def test_a_replica_is_not_put_out_while_its_kv_is_leaving():
    # one request, prefilled by 0.01, its KV under way for a second; the restart begins with the prefill replica
    faults = Faults(restart_at="500 ms", restart_lasts="5 s")
    table = RequestTable.of([0.0], [10], [2])
    records = simulate_pools(
        table, pool(spec=TEN_MS), pool(spec=TEN_MS), PointToPoint(latency_s=1.0), faults=faults, until_s=3.0
    )
    down = records.events["time_s"][records.events["event"] == "replica_down"]
    assert down.tolist() == pytest.approx([1.01], abs=1e-6)
    assert records.requests["finish_s"].tolist() == pytest.approx([1.02])


def test_a_dead_pool_ends_the_run_though_the_other_goes_on_looking_at_its_load():
    table = RequestTable.of([0.0, 5.0], [10, 10], [5, 5])
    faults = Faults(outages=(Outage(replica=1, at="2 s"),))
    records = simulate_pools(table, pool(QUICK, TEN_MS), pool(spec=TEN_MS), PointToPoint(), faults=faults)
    assert records.requests["outcome"].tolist() == ["finished", "failed"]
    both = simulate_pools(table, pool(QUICK, TEN_MS), pool(QUICK, TEN_MS), PointToPoint(), faults=faults)
    assert both.requests["outcome"].tolist() == ["finished", "finished"]


def test_a_replica_that_fails_while_it_drains_and_is_repaired_goes_on_serving():
    # eight tokens a second: a failure cuts the drain of the restart short, and its repair ends before the leap would
    slow = ReplicaSpec(Constant(time_s=0.125), kv_blocks=1000, max_context=1000)
    table = RequestTable.of([0.0, 0.0, 9.0], [10] * 3, [80] * 3)
    faults = Faults(restart_at="1 s", restart_lasts="1 s", outages=(Outage(replica=1, at="3 s", lasts="1 s"),))
    decode = PoolSpec([slow] * 2, LeastOutstanding(), Continuous())
    records = simulate_pools(table, pool(spec=TEN_MS), decode, PointToPoint(), faults=faults)
    assert (records.requests["outcome"] == "finished").all()
    steps, replicas = records.steps, records.replicas
    for replica, start, end in zip(steps["replica"], steps["start_s"], steps["end_s"], strict=True):
        mine = replicas["replica"] == replica
        assert ((replicas["up_s"][mine] <= start + 1e-6) & (end <= replicas["down_s"][mine] + 1e-6)).any()


def test_who_fails_while_kv_is_coming_counts_its_requests_right_when_it_is_back():
    # KV under way for a second to the only decode replica, which fails at half of it and is back a moment later
    faults = Faults(outages=(Outage(replica=1, at="500 ms", lasts="100 ms"),))
    fleet = Fleet(RequestTable.of([0.0], [10], [20]), pool(spec=TEN_MS), pool(spec=TEN_MS), PointToPoint(latency_s=1.0))
    records = play(fleet, None, faults, 0)
    assert records.requests["finish_s"].tolist() == pytest.approx([1.01 + 19 * 0.01])
    assert [replica.outstanding for replica in fleet.replicas] == [0, 0]
