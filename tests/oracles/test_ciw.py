"""Waiting times against Ciw, a queueing simulator by others, customer by customer on the same sample."""

from __future__ import annotations

import ciw
import numpy as np
import pytest

from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.steps import DecodeCurve
from sparsesim.workload.requests import RequestTable

STEP_S = 1e-3
MEAN_TOK = 1000
COUNT = 4000


class Clock:
    """Every iteration takes STEP_S, whatever is in it."""

    windows: tuple[float, ...] = ()
    components = ("static",)
    idle_w = active_idle_w = 0.0

    def decode(self, sequences: int) -> DecodeCurve:
        return DecodeCurve(np.array([STEP_S, 0.0]), ())

    def mixed(self, decode: int, contexts: object, chunks: object, sampled: int) -> tuple[float, float]:
        return (STEP_S, 0.0)


def by_ciw(arrival_s: np.ndarray, service_s: np.ndarray, servers: int) -> np.ndarray:
    gaps = np.diff(arrival_s, prepend=0.0)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps.tolist(), 1e12])],
        service_distributions=[ciw.dists.Sequential(service_s.tolist())],
        number_of_servers=[servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(len(gaps))
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)
    return np.array([record.waiting_time for record in records])


@pytest.mark.parametrize("places", [1, 3, 8])
def test_every_wait_is_that_of_a_first_come_first_served_queue(places: int) -> None:
    rng = np.random.default_rng(places)
    output_tok = rng.geometric(1 / MEAN_TOK, COUNT)
    arrival_s = np.cumsum(rng.exponential(1 / (0.8 * places), COUNT))
    table = RequestTable.of(arrival_s, np.ones(COUNT, np.int64), output_tok)
    spec = ReplicaSpec(Clock(), kv_blocks=10**9, max_context=10**9)
    rules = Continuous(max_running=places, token_budget=2048)
    requests = simulate_fleet(table, [spec], RoundRobin(), rules).requests
    own = requests["admitted_s"] - requests["arrival_s"]
    theirs = by_ciw(arrival_s, output_tok * STEP_S, places)
    assert len(theirs) == COUNT
    assert theirs.mean() > 0.1  # there is a queue to compare
    later = own - theirs  # with others in the batch one enters at the end of an iteration
    assert later.min() > -1e-9
    assert later.max() < (1e-9 if places == 1 else STEP_S)
