"""Speculative decoding: the acceptance law, and what it does to a timeline."""

from __future__ import annotations

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.errors import InputError
from sparsesim.sim.faults import Faults, Outage
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet, simulate_pools
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.speculation import Speculation
from sparsesim.sim.transfer import PointToPoint
from sparsesim.workload.requests import PrefixBlocks, RequestTable

SPEC = ReplicaSpec(Constant(time_s=0.01), kv_blocks=1000, max_context=100_000)


def test_the_published_mean_of_tokens_per_step():
    # Leviathan et al., table 1 of ICML 2023: alpha 0.8, gamma 5 gives 3.69 tokens
    assert Speculation(draft_tok=5, acceptance=0.8).mean_tok == pytest.approx(3.69, abs=5e-3)


@pytest.mark.parametrize(("draft_tok", "acceptance"), [(1, 0.5), (5, 0.8), (3, 0.95)])
def test_drawn_steps_have_the_laws_mean(draft_tok, acceptance):
    law = Speculation(draft_tok=draft_tok, acceptance=acceptance)
    steps = law.verify_steps(np.full(500, 2001), seed=3)
    # the last step overshoots by less than a draft
    assert 2000 / steps.mean() == pytest.approx(law.mean_tok, rel=0.01)


def test_without_acceptance_it_is_plain_decoding():
    table = RequestTable.of([0.0, 0.03], [10, 20], [30, 40])
    law = Speculation(draft_tok=2, acceptance=0.0)
    plain = simulate_fleet(table, [SPEC], RoundRobin(), Continuous())
    same = simulate_fleet(table, [SPEC], RoundRobin(), Continuous(speculation=law))
    np.testing.assert_allclose(same.requests["finish_s"], plain.requests["finish_s"])


def test_a_request_takes_its_verify_steps():
    law = Speculation(draft_tok=3, acceptance=0.7)
    table = RequestTable.of([0.0], [10], [100])
    steps = int(law.verify_steps(table.output_tok, seed=7)[0])
    records = simulate_fleet(table, [SPEC], RoundRobin(), Continuous(speculation=law), seed=7)
    assert records.requests["finish_s"][0] == pytest.approx(0.01 * (1 + steps))
    assert records.steps["output_tok"].sum() == 100
    assert 99 / 4 <= steps < 99


def test_between_pools_a_request_takes_its_prefill_its_transfer_and_its_verify_steps():
    law = Speculation(draft_tok=3, acceptance=0.7)
    table = RequestTable.of([0.0, 0.0], [10, 40], [100, 30])
    steps = law.verify_steps(table.output_tok, seed=7)
    prefill, decode = (PoolSpec([SPEC], RoundRobin(), Continuous(speculation=one)) for one in (None, law))
    moved = PointToPoint(latency_s=0.002, bytes_per_s=1e6, bytes_per_tok=1e2)
    records = simulate_pools(table, prefill, decode, moved, seed=7)
    # ten tokens arrive after 3 ms, forty after 6 ms, when the first one's step of 10 ms is under way
    assert records.requests["first_token_s"].tolist() == pytest.approx([0.01, 0.01])
    expected = 0.013 + 0.01 * (steps + np.arange(2))
    np.testing.assert_allclose(records.requests["finish_s"], expected)
    assert records.steps["output_tok"].sum() == 130


def test_a_prefix_hit_changes_the_prefill_and_not_the_verify_steps():
    law = Speculation(draft_tok=3, acceptance=0.7)
    model = Affine(base_s=0.01, per_sequence_s=0.0, per_context_s=0.0, per_token_s=1e-3, per_attended_s=0.0)
    blocks = PrefixBlocks(np.array([1, 2, 1, 2]), np.array([0, 2, 4]), 32)
    table = RequestTable.of([0.0, 10.0], [70, 70], [50, 50], prefix_blocks=blocks)
    spec = ReplicaSpec(model, kv_blocks=20, max_context=1000, prefix_cache="pool")
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous(speculation=law), seed=7)
    assert records.requests["cached_tok"].tolist() == [0, 64]
    took = records.requests["finish_s"] - records.requests["arrival_s"]
    np.testing.assert_allclose(took, [0.08, 0.016] + 0.01 * law.verify_steps(table.output_tok, seed=7))
    # 70 + 49 tokens and a draft of three are eight blocks, of which the second request shares the four of its hit
    together = RequestTable.of([0.0, 0.2], [70, 70], [50, 50], prefix_blocks=blocks)
    records = simulate_fleet(together, [spec], RoundRobin(), Continuous(speculation=law), seed=7)
    assert records.steps["kv_blocks"].max() == 8 + 4


def test_a_failed_decode_replica_costs_no_request_its_tokens():
    law = Speculation(draft_tok=3, acceptance=0.7)
    table = RequestTable.of(np.arange(20) * 0.02, np.full(20, 10), np.full(20, 100))
    prefill, decode = (PoolSpec([SPEC] * 2, LeastOutstanding(), Continuous(speculation=one)) for one in (None, law))
    faults = Faults(outages=(Outage(replica=2, at="300 ms"),))
    records = simulate_pools(table, prefill, decode, PointToPoint(latency_s=0.002), faults=faults)
    assert (records.requests["outcome"] == "finished").all()
    assert (records.requests["generated_tok"] == 100).all()
    assert (records.events["event"] == "rerouted").any()
    assert (records.requests["replica"] == 3).all() | (records.requests["finish_s"] < 0.3).any()


def test_it_is_refused_where_nothing_decodes_and_where_nothing_can_be_swapped():
    law = Speculation(draft_tok=3, acceptance=0.7)
    pool = PoolSpec([SPEC], RoundRobin(), Continuous(speculation=law))
    with pytest.raises(InputError, match="prefill replicas do not decode"):
        simulate_pools(RequestTable.of([0.0], [1], [2]), pool, pool, PointToPoint())
    with pytest.raises(ValueError, match="nobody is preempted"):
        Continuous(speculation=law, preemption="swap")
