"""Pools, failures, scaling and admission: every request ends once, in a way that has a name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.errors import InputError
from sparsesim.sim.admission import Admission
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.faults import Faults, Outage
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_kv import LeastKv
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.routers.power_aware import PowerAware
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet, simulate_pools
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.schedulers.static import Static
from sparsesim.sim.transfer import PointToPoint, SharedLinks
from sparsesim.workload.requests import RequestTable

ROOMY = ReplicaSpec(Affine(), kv_blocks=10_000, max_context=100_000)
TEN_MS = ReplicaSpec(Constant(time_s=0.01), kv_blocks=1000, max_context=100_000)


def outage(at, lasts=None):
    return (
        Faults(outages=(Outage(replica=0, at=at, lasts=lasts),))
        if lasts
        else Faults(outages=(Outage(replica=0, at=at),))
    )


def poisson(count, rate_per_s, seed=0, prompt=300, output=100):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate_per_s, count))
    return RequestTable.of(arrival, rng.integers(1, 2 * prompt, count), rng.integers(1, 2 * output, count))


def pools(table, prefill, decode, transfer=None, **others):
    rules = Continuous()
    return simulate_pools(
        table,
        PoolSpec(prefill, RoundRobin(), rules),
        PoolSpec(decode, LeastOutstanding(), rules),
        transfer or PointToPoint(),
        **others,
    )


def test_disaggregated_and_aggregated_agree_where_transfer_is_free_and_pools_are_endless():
    table = poisson(60, 5.0)
    alone = simulate_fleet(table, [ROOMY] * 60, RoundRobin(), Continuous())
    apart = pools(table, [ROOMY] * 60, [ROOMY] * 60)
    for name in ("first_token_s", "finish_s"):
        np.testing.assert_allclose(apart.requests[name], alone.requests[name], rtol=1e-9)
    assert apart.steps["output_tok"].sum() == alone.steps["output_tok"].sum()


def test_a_transfer_delays_the_second_token_and_holds_the_blocks_until_it_has_arrived():
    # 32 tokens of 1 kB at 1 MB/s and 8 ms latency: 40 ms between the first token and the decode replica
    table = RequestTable.of([0.0, 0.0], [32, 32], [3, 3])
    small = ReplicaSpec(Constant(time_s=0.01), kv_blocks=2, max_context=1000)
    transfer = PointToPoint(latency_s=0.008, bytes_per_s=1e6, bytes_per_tok=1e3)
    records = pools(table, [small], [TEN_MS], transfer)
    # the pool of two blocks holds one prompt: the second is prefilled when the first has arrived
    assert records.requests["first_token_s"].tolist() == pytest.approx([0.01, 0.06])
    assert records.requests["finish_s"].tolist() == pytest.approx([0.07, 0.12])
    assert records.requests["replica"].tolist() == [1, 1]


def test_transfers_at_once_share_the_card_they_leave_by():
    # two prompts of 100 tokens prefilled together by 0.01, 1 kB a token, 1 MB/s out: alone 0.1 s each, together 0.2 s
    table = RequestTable.of([0.0, 0.0], [100, 100], [2, 2])
    links = SharedLinks(out_bytes_per_s=1e6, in_bytes_per_s=1e9, bytes_per_tok=1e3)
    records = pools(table, [TEN_MS], [TEN_MS] * 2, links)
    assert records.requests["finish_s"].tolist() == pytest.approx([0.22, 0.22], abs=1e-6)
    # one card each: a tenth of a second
    apart = pools(table, [TEN_MS] * 2, [TEN_MS] * 2, links)
    assert apart.requests["finish_s"].tolist() == pytest.approx([0.12, 0.12], abs=1e-6)
    # over a trunk of the same width they share again
    trunk = replace(links, trunk_bytes_per_s=1e6)
    together = pools(table, [TEN_MS] * 2, [TEN_MS] * 2, trunk)
    assert together.requests["finish_s"].tolist() == pytest.approx([0.22, 0.22], abs=1e-6)


def test_a_request_of_one_token_never_leaves_its_prefill_replica():
    records = pools(RequestTable.of([0.0], [10], [1]), [TEN_MS], [TEN_MS])
    assert records.requests["replica"].tolist() == [0]
    assert records.requests["finish_s"].tolist() == pytest.approx([0.01])


def test_static_batching_cannot_be_disaggregated():
    with pytest.raises(InputError, match="no prefill role"):
        simulate_pools(
            poisson(3, 1.0),
            PoolSpec([ROOMY], RoundRobin(), Static()),
            PoolSpec([ROOMY], RoundRobin(), Continuous()),
            PointToPoint(),
        )


def test_a_failed_replica_loses_no_request_and_no_token():
    table = poisson(400, 20.0)
    faults = outage("5 s", "4 s")
    records = simulate_fleet(table, [ROOMY] * 2, LeastOutstanding(), Continuous(), faults=faults)
    assert (records.requests["outcome"] == "finished").all()
    assert (records.events["event"] == "rerouted").sum() > 0
    assert records.steps["output_tok"].sum() == table.output_tok.sum()
    down = (records.steps["replica"] == 0) & (records.steps["start_s"] > 5.0) & (records.steps["start_s"] < 9.0)
    assert not down.any()
    assert records.replicas["replica"].tolist() == [0, 0, 1]
    assert records.replicas["down_s"][0] == pytest.approx(5.0)
    assert records.replicas["up_s"][1] == pytest.approx(9.0)


def test_a_request_goes_on_elsewhere_with_the_tokens_it_had():
    # five tokens by 0.05; at 0.055 its replica fails: 10 + 5 tokens are computed again on the other by 0.065
    table = RequestTable.of([0.0], [10], [8])
    records = simulate_fleet(table, [TEN_MS] * 2, RoundRobin(), Continuous(), faults=outage("55 ms"))
    assert records.requests["first_token_s"][0] == pytest.approx(0.01)
    assert records.requests["finish_s"][0] == pytest.approx(0.085)
    assert records.requests["replica"][0] == 1
    assert records.steps["prefill_tok"].sum() == 10 + 15
    assert records.steps["output_tok"].sum() == 8


def test_without_a_replica_requests_wait_and_if_none_comes_back_have_failed():
    table = RequestTable.of([0.0, 1.0], [10, 10], [2, 2])
    back = simulate_fleet(table, [TEN_MS], RoundRobin(), Continuous(), faults=outage("500 ms", "2 s"))
    assert back.requests["finish_s"].tolist() == pytest.approx([0.02, 2.52])
    gone = simulate_fleet(table, [TEN_MS], RoundRobin(), Continuous(), faults=outage("500 ms"))
    assert gone.requests["outcome"].tolist() == ["finished", "failed"]


def test_a_replica_that_is_down_cannot_fail_again():
    twice = Faults(outages=[{"replica": 0, "at": f"{at} s", "lasts": "4 s"} for at in (5, 6)], restart_at="7 s")
    records = simulate_fleet(poisson(400, 20.0), [ROOMY] * 2, LeastOutstanding(), Continuous(), faults=twice)
    assert (records.requests["outcome"] == "finished").all()
    assert (records.events["event"] == "replica_failed").sum() == 1
    assert (records.replicas["down_s"] >= records.replicas["up_s"]).all()


def test_random_failures_repeat_with_the_seed_and_lose_nothing():
    faults = Faults(mean_time_to_failure="3 s", mean_time_to_repair="1 s")
    runs = [
        simulate_fleet(poisson(200, 20.0), [ROOMY] * 3, LeastOutstanding(), Continuous(), faults=faults, seed=seed)
        for seed in (1, 1, 2)
    ]
    for run in runs:
        assert (run.requests["outcome"] == "finished").all()
    np.testing.assert_array_equal(runs[0].requests["finish_s"], runs[1].requests["finish_s"])
    assert not np.array_equal(runs[0].requests["finish_s"], runs[2].requests["finish_s"])


def test_a_rolling_restart_takes_each_replica_once_and_preempts_nobody():
    faults = Faults(restart_at="2 s", restart_lasts="1 s")
    records = simulate_fleet(poisson(400, 20.0), [ROOMY] * 3, LeastOutstanding(), Continuous(), faults=faults)
    assert (records.requests["outcome"] == "finished").all()
    assert (records.requests["preemptions"] == 0).all()
    assert records.events["replica"][records.events["event"] == "replica_down"].tolist() == [0, 1, 2]


def bursts():
    """Five minutes of calm, then a wave that swells to forty requests per second and ebbs away; twice."""
    rng = np.random.default_rng(5)
    arrival = [time for start in (0, 380) for time in start + rng.uniform(0, 300, 300)]
    arrival += [time for start in (300, 680) for time in start + rng.triangular(0, 40, 80, 1600)]
    return RequestTable.of(np.sort(arrival), np.full(3800, 500), np.full(3800, 100))


def test_autoscaling_meets_a_bound_that_a_fixed_fleet_of_the_same_mean_size_misses():
    scale = Autoscale(least=2, most=16, target=4.0, interval="1 s", start_up="2 s", patience="5 s")
    spec = ReplicaSpec(Affine(), kv_blocks=2000, max_context=10_000)
    rules = Continuous(max_running=4)
    scaled = simulate_fleet(bursts(), [spec], LeastOutstanding(), rules, autoscale=scale)
    up_s = (scaled.replicas["down_s"] - scaled.replicas["up_s"]).sum()
    mean = round(float(up_s / scaled.end_s))
    fixed = simulate_fleet(bursts(), [spec] * mean, LeastOutstanding(), rules)

    def p95(records):
        return np.percentile(records.requests["first_token_s"] - records.requests["arrival_s"], 95)

    assert (scaled.requests["outcome"] == "finished").all()
    assert 1 <= mean < 16
    assert len(set(scaled.replicas["replica"].tolist())) > mean
    assert p95(scaled) < 1.0 < p95(fixed)


def test_admission_turns_the_less_important_away_first():
    table = RequestTable.of(np.zeros(10), np.full(10, 10), np.full(10, 5), priority=np.array([0, 1] * 5))
    admission = Admission(max_outstanding=(4, 2))
    records = simulate_fleet(table, [TEN_MS], RoundRobin(), Continuous(), admission=admission)
    refused = records.requests["outcome"] == "rejected_full"
    # in order 0 1 0 1 0 ...: one of class 1 enters while fewer than two are in, class 0 up to four
    assert np.flatnonzero(~refused).tolist() == [0, 1, 2, 4]
    assert records.steps["output_tok"].sum() == 20


def test_who_waits_too_long_gives_up_and_lets_the_next_one_in():
    # 4 blocks: the first holds 2 for 0.3 s, the second wants 4 and gives up, the third behind it wants 1
    table = RequestTable.of([0.0, 0.01, 0.03], [16, 60, 10], [17, 2, 2])
    spec = ReplicaSpec(Constant(time_s=0.02), kv_blocks=4, max_context=1000)
    admission = Admission(max_wait="100 ms")
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous(), admission=admission)
    assert records.requests["outcome"].tolist() == ["finished", "timed_out", "finished"]
    assert records.requests["admitted_s"][2] == pytest.approx(0.12)


def test_least_kv_counts_blocks_not_requests():
    # one long request on the first replica against two short ones on the second
    table = RequestTable.of([0.0, 0.1, 0.2, 0.3], [5000, 10, 10, 10], [50] * 4)
    records = simulate_fleet(table, [TEN_MS] * 2, LeastKv(), Continuous())
    assert records.requests["replica"].tolist() == [0, 1, 1, 1]


def test_the_power_aware_router_fills_one_replica_before_the_next():
    table = RequestTable.of(np.arange(5) * 1e-3, np.full(5, 10), np.full(5, 50))
    records = simulate_fleet(table, [TEN_MS] * 3, PowerAware(fill=2), Continuous())
    assert records.requests["replica"].tolist() == [0, 0, 1, 1, 2]
