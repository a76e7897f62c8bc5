"""Speculative decoding: the acceptance law, and what it does to a timeline."""

from __future__ import annotations

import numpy as np
import pytest
from step_models import Constant

from sparsesim.errors import InputError
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet, simulate_pools
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.speculation import Speculation
from sparsesim.sim.transfer import PointToPoint
from sparsesim.workload.requests import RequestTable

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


def test_it_is_refused_where_it_is_not_modelled():
    law = Speculation(draft_tok=3, acceptance=0.7)
    pool = PoolSpec([SPEC], RoundRobin(), Continuous(speculation=law))
    with pytest.raises(InputError, match="disaggregated"):
        simulate_pools(RequestTable.of([0.0], [1], [2]), pool, pool, PointToPoint())
