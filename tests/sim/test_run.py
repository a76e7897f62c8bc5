"""Runs as a whole: bursts, horizons, interruption, closed loops, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.errors import InputError
from sparsesim.sim.admission import Admission
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_kv import LeastKv
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.schedulers.sglang import Sglang
from sparsesim.sim.schedulers.static import Static
from sparsesim.workload.requests import RequestTable

SPEC = ReplicaSpec(Constant(time_s=0.01), kv_blocks=1000, max_context=100_000)


def test_a_burst_of_100_000_ends_with_a_named_outcome_each():
    count = 100_000
    prompt = np.full(count, 512)
    prompt[::1000] = 200_000
    table = RequestTable.of(np.zeros(count), prompt, np.full(count, 4))
    spec = ReplicaSpec(Affine(), kv_blocks=2000, max_context=131_072)
    records = simulate_fleet(table, [spec] * 4, LeastOutstanding(), Continuous())
    names, counts = np.unique(records.requests["outcome"], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"finished": 99_900, "rejected_too_long": 100}


@pytest.mark.parametrize("scheduler", [Continuous(policy="priority"), Sglang(), Static()])
def test_no_queue_of_any_length_hangs(scheduler):
    count = 30_000
    ranks = np.arange(count) % 3
    table = RequestTable.of(np.zeros(count), np.full(count, 100), np.full(count, 4), priority=ranks)
    admission = Admission(max_wait="100 ms")
    for router in (LeastKv(), LeastOutstanding()):
        records = simulate_fleet(table, [SPEC] * 2, router, scheduler, admission=admission)
        names = set(records.requests["outcome"].tolist())
        assert names == {"finished", "timed_out"}


def test_a_horizon_leaves_the_rest_unfinished_and_keeps_the_tokens_made():
    table = RequestTable.of([0.0, 0.0, 5.0], [10, 10, 10], [5, 1000, 5])
    records = simulate_fleet(table, [SPEC], RoundRobin(), Continuous(), until_s=1.0)
    assert records.requests["outcome"].tolist() == ["finished", "unfinished", "unfinished"]
    assert records.requests["generated_tok"].tolist() == [5, 100, 0]
    assert records.steps["output_tok"].sum() == 105
    assert records.end_s == pytest.approx(1.0)


def test_an_interrupt_leaves_what_was_simulated_marked_partial():
    seen = []

    def interrupt(ended, total, time_s):
        seen.append((ended, total, time_s))
        if len(seen) == 2:
            raise KeyboardInterrupt

    count = 5000
    table = RequestTable.of(np.arange(count) * 0.01, np.full(count, 10), np.full(count, 3))
    records = simulate_fleet(table, [SPEC], RoundRobin(), Continuous(), progress=interrupt)
    finished = records.requests["outcome"] == "finished"
    assert records.partial
    assert 0 < finished.sum() < count
    assert not np.isnan(records.requests["finish_s"][finished]).any()
    assert [total for _, total, _ in seen] == [count, count]


def test_a_closed_loop_keeps_its_number_in_flight():
    # 3 clients on a replica that gives each request 5 iterations of 10 ms; the next joins an iteration later
    table = RequestTable.of(np.zeros(9), np.full(9, 10), np.full(9, 5), concurrency=3)
    records = simulate_fleet(table, [SPEC], RoundRobin(), Continuous())
    assert records.requests["arrival_s"].tolist() == pytest.approx([0.0] * 3 + [0.05] * 3 + [0.10] * 3)
    assert records.requests["finish_s"].tolist() == pytest.approx([0.05] * 3 + [0.10] * 3 + [0.15] * 3)


def test_a_session_goes_on_after_its_think_time():
    table = RequestTable.of([0.0, 0.0], [10, 10], [5, 5], follows=np.array([-1, 0]), think_s=np.array([0.0, 2.0]))
    records = simulate_fleet(table, [SPEC], RoundRobin(), Continuous())
    assert records.requests["arrival_s"][1] == pytest.approx(2.05)
    assert records.requests["finish_s"][1] == pytest.approx(2.10)


def test_a_static_batch_holds_its_places_until_the_longest_is_done():
    table = RequestTable.of([0.0, 0.0, 0.0], [10, 10, 10], [2, 8, 3])
    records = simulate_fleet(table, [SPEC], RoundRobin(), Static(batch=2))
    assert records.requests["finish_s"].tolist() == pytest.approx([0.02, 0.08, 0.11])
    # two rows are computed in each of the seven decode iterations, though one is done after the first
    assert (records.steps["decode"] * records.steps["iterations"]).sum() == 2 * 7 + 2
    assert records.steps["output_tok"].sum() == 13


def test_least_outstanding_avoids_the_busy_replica():
    table = RequestTable.of([0.0, 0.001, 0.002], [10] * 3, [100, 2, 2])
    records = simulate_fleet(table, [SPEC] * 2, LeastOutstanding(), Continuous())
    assert records.requests["replica"].tolist() == [0, 1, 0]
    late = RequestTable.of([0.0, 0.001, 0.5], [10] * 3, [100, 2, 2])
    records = simulate_fleet(late, [SPEC] * 2, LeastOutstanding(), Continuous())
    assert records.requests["replica"].tolist() == [0, 1, 1]


def test_no_requests_give_empty_records():
    records = simulate_fleet(RequestTable.of([], [], []), [SPEC], RoundRobin(), Continuous())
    assert all(len(column) == 0 for table in (records.requests, records.steps) for column in table.values())


def test_the_same_input_gives_the_same_bits():
    rng = np.random.default_rng(0)
    table = RequestTable.of(np.cumsum(rng.exponential(0.01, 500)), rng.integers(1, 900, 500), rng.integers(1, 90, 500))
    runs = [simulate_fleet(table, [SPEC] * 2, LeastOutstanding(), Continuous()) for _ in range(2)]
    for kind in ("requests", "steps"):
        first, second = (getattr(run, kind) for run in runs)
        assert all(np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f") for name in first)


def test_bad_input_names_every_problem():
    with pytest.raises(InputError) as caught:
        simulate_fleet(RequestTable.of([0.0], [0], [0]), [], RoundRobin(), Continuous())
    assert len(caught.value.problems) == 3
