"""Waiting times against queueing theory.

One place in the batch and a constant iteration time make a replica a single server whose service time is the output
length times the iteration time: with geometric lengths of mean 1,000 nearly exponential, and exactly what Pollaczek
and Khinchine ask for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import brentq

from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.steps import DecodeCurve
from sparsesim.workload.requests import RequestTable

STEP_S = 1e-3
MEAN_TOK = 1000
COUNT = 100_000
RATE = 0.7  # of a server's capacity of one request per second


@dataclass(frozen=True)
class Clock:
    """Every iteration takes STEP_S, whatever is in it."""

    windows: tuple[float, ...] = ()
    components: tuple[str, ...] = ("static",)
    idle_w: float = 0.0
    active_idle_w: float = 0.0

    def decode(self, sequences):
        return DecodeCurve(np.array([STEP_S, 0.0]), ())

    def mixed(self, decode, contexts, chunks, sampled):
        return (STEP_S, 0.0)


def waits(output_tok, rate_per_s, places=1, replicas=1, seed=0):
    """Seconds from arrival to admission."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate_per_s, len(output_tok)))
    table = RequestTable.of(arrival, np.ones(len(output_tok), np.int64), output_tok)
    spec = ReplicaSpec(Clock(), kv_blocks=10**9, max_context=10**9)
    rules = Continuous(max_running=places, token_budget=max(places, 2048))
    requests = simulate_fleet(table, [spec] * replicas, RoundRobin(), rules).requests
    return requests["admitted_s"] - requests["arrival_s"]


def geometric(seed=1):
    return np.random.default_rng(seed).geometric(1 / MEAN_TOK, COUNT)


def averaged(wait):
    """The mean and its standard error from batches that are long against the correlation of waiting times."""
    means = wait[: COUNT // 50 * 50].reshape(50, -1).mean(axis=1)
    return wait.mean(), means.std(ddof=1) / math.sqrt(50)


def test_m_m_1():
    mean, error = averaged(waits(geometric(), RATE))
    assert mean == pytest.approx(RATE / (1 - RATE), abs=4 * error)
    assert error < 0.06 * mean


def test_m_d_1():
    mean, error = averaged(waits(np.full(COUNT, MEAN_TOK), RATE))
    assert mean == pytest.approx(RATE / (2 * (1 - RATE)), abs=4 * error)
    assert error < 0.06 * mean


def test_m_m_1_of_the_very_sample_by_lindley():
    # W[i+1] = max(0, W[i] + S[i] - A[i]): no statistics, every single wait
    output = geometric()
    wait = waits(output, RATE)
    gaps = np.random.default_rng(0).exponential(1 / RATE, COUNT)[1:]
    expected, found = 0.0, [0.0]
    for service, gap in zip(output[:-1] * STEP_S, gaps, strict=True):
        expected = max(0.0, expected + service - gap)
        found.append(expected)
    np.testing.assert_allclose(wait, found, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("servers", [2, 4])
def test_m_m_c_by_places_in_the_batch(servers):
    # Erlang C; an arrival at a busy clock enters at the next boundary, half an iteration later on average
    mean, error = averaged(waits(geometric(), RATE * servers, places=servers))
    load = RATE * servers
    blocked = load**servers / math.factorial(servers) / (1 - RATE)
    probability = blocked / (sum(load**k / math.factorial(k) for k in range(servers)) + blocked)
    assert mean == pytest.approx(probability / (servers - load), abs=4 * error + STEP_S)


def test_round_robin_over_two_replicas_is_erlang_2_arrivals_at_each():
    # GI/M/1: s = A*(mu (1 - s)) with the Erlang-2 transform; the wait is s / (mu (1 - s))
    mean, error = averaged(waits(geometric(), RATE * 2, replicas=2))
    rate = 2 * RATE  # of each of the two phases
    root = brentq(lambda s: (rate / (rate + 1 - s)) ** 2 - s, 1e-9, 1 - 1e-6)
    assert mean == pytest.approx(root / (1 - root), abs=4 * error)
