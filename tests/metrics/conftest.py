"""Small real runs to measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.records import Records
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers import Router
from sparsesim.sim.run import simulate_fleet, simulate_pools
from sparsesim.sim.schedulers import Scheduler
from sparsesim.sim.steps import Channel, DecodeCurve
from sparsesim.sim.transfer import PointToPoint
from sparsesim.workload import RequestTable, Workload, generate


class Linear:
    """A step costs 5 ms, 10 us per sequence, 40 ns per token attended and 25 us per prompt token; 1 J per ms."""

    components = ("compute", "memory", "link", "static")
    windows = (float("inf"),)
    idle_w = 70.0
    active_idle_w = 120.0

    def _values(self, time: Any) -> Any:
        time = np.asarray(time, float)
        return np.stack([300 * time, 500 * time, 0 * time, 200 * time], axis=-1)

    def decode(self, sequences: int) -> DecodeCurve:
        base, knots = 5e-3 + 1e-5 * sequences, np.array([0.0, 1e6])
        time = 4e-8 * sequences * knots
        return DecodeCurve(
            np.concatenate([[base], self._values(base)]),
            (Channel(float("inf"), knots, np.concatenate([time[:, None], self._values(time)], axis=1)),),
        )

    def mixed(self, decode: int, contexts: Any, chunks: Any, sampled: int) -> Any:
        time = 5e-3 + 1e-5 * decode + 4e-8 * decode * contexts[0] + 2.5e-5 * sum(q for q, _ in chunks)
        return (time, *self._values(time).tolist())


CONTINUOUS = {"kind": "continuous", "max_running": 64}


def requested(requests: int, rate: str) -> RequestTable:
    """Log-normal requests."""
    lengths = {"kind": "lognormal", "prompt": {"mean": "400 tok", "cv": 1}, "output": {"mean": "80 tok", "cv": 1}}
    arrivals = {"kind": "poisson", "rate": rate}
    return generate(Workload.resolve({"arrivals": arrivals, "lengths": lengths, "requests": requests}), seed=0)


def simulate(
    requests: int = 400, rate: str = "20 /s", blocks: int = 4000, replicas: int = 2, scheduler: Any = CONTINUOUS
) -> Records:
    """A run of log-normal requests."""
    spec = ReplicaSpec(Linear(), blocks, 100_000)
    router, rules = Router.resolve("round_robin"), Scheduler.resolve(scheduler)
    return simulate_fleet(requested(requests, rate), [spec] * replicas, router, rules)


@pytest.fixture(scope="session")
def calm() -> Records:
    """Two replicas at a load they carry."""
    return simulate()


@pytest.fixture(scope="session")
def crowded() -> Records:
    """One replica whose KV pool runs out, so that requests are preempted."""
    records = simulate(requests=300, rate="60 /s", blocks=200, replicas=1)
    assert records.requests["preemptions"].sum() > 10
    return records


@pytest.fixture(scope="session")
def static() -> Records:
    """Batches that begin and end together."""
    return simulate(requests=200, rate="5 /s", scheduler={"kind": "static", "batch": 8})


@pytest.fixture(scope="session")
def prompts_first() -> Records:
    """Decoding pauses while prompts are computed."""
    return simulate(scheduler={"kind": "sglang", "max_running": 64})


@pytest.fixture(scope="session")
def disaggregated() -> Records:
    """Prompts and decoding on replicas of their own, the second short of KV blocks."""
    pool = PoolSpec([ReplicaSpec(Linear(), 300, 100_000)], Router.resolve("round_robin"), Scheduler.resolve(CONTINUOUS))
    records = simulate_pools(requested(400, "30 /s"), pool, pool, PointToPoint(1e-3, 1e9, 1e5))
    assert records.requests["preemptions"].sum() > 10
    return records
