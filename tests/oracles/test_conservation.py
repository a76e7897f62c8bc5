"""What goes in comes out: requests, tokens, blocks and joules; and Little's law."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.workload.requests import RequestTable

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))
from step_models import Affine


@pytest.fixture(scope="module")
def records():
    """A loaded, tight fleet: preemptions happen."""
    rng = np.random.default_rng(3)
    count = 3000
    table = RequestTable.of(
        np.cumsum(rng.exponential(1 / 60, count)), rng.integers(1, 1200, count), rng.integers(1, 400, count)
    )
    spec = ReplicaSpec(Affine(), kv_blocks=800, max_context=4096)
    return simulate_fleet(table, [spec] * 2, LeastOutstanding(), Continuous(max_running=64))


def test_every_request_ends_and_has_its_tokens(records):
    requests, steps = records.requests, records.steps
    assert (requests["preemptions"] > 0).any()
    assert (requests["outcome"] == "finished").all()
    assert (requests["generated_tok"] == requests["output_tok"]).all()
    assert steps["output_tok"].sum() == requests["output_tok"].sum()
    assert steps["prefill_tok"].sum() > requests["prompt_tok"].sum()  # preempted ones compute again


def test_the_pool_is_empty_when_all_is_done(records):
    for replica in (0, 1):
        rows = np.flatnonzero(records.steps["replica"] == replica)
        last = rows[-1]
        # the last row still holds what the last request gives up at its end
        assert 0 < records.steps["kv_blocks"][last] <= -(-(1200 + 400) // 16)
        assert records.steps["running"][last] <= 64


def test_rows_of_a_replica_neither_overlap_nor_run_backwards(records):
    for replica in (0, 1):
        rows = records.steps["replica"] == replica
        assert (records.steps["start_s"][rows][1:] >= records.steps["end_s"][rows][:-1] - 1e-9).all()


def test_static_energy_is_static_power_times_busy_time(records):
    busy_s = (records.steps["end_s"] - records.steps["start_s"]).sum()
    assert records.steps["static_j"].sum() == pytest.approx(120.0 * busy_s, rel=1e-9)


def test_little():
    # the time that requests spend in the batch is the batch size integrated over time, exactly
    rng = np.random.default_rng(4)
    table = RequestTable.of(np.cumsum(rng.exponential(1 / 10, 500)), np.full(500, 300), rng.integers(1, 300, 500))
    spec = ReplicaSpec(Affine(), kv_blocks=100_000, max_context=4096)
    found = simulate_fleet(table, [spec], LeastOutstanding(), Continuous())
    in_batch_s = (found.requests["finish_s"] - found.requests["admitted_s"]).sum()
    running_s = ((found.steps["end_s"] - found.steps["start_s"]) * found.steps["running"]).sum()
    assert in_batch_s == pytest.approx(running_s, rel=1e-9)
