"""Operating points of prefill replicas: prompts alone, one after another.

A prompt that finds its replica idle takes its own iterations; those that wait fill the steps they share, so that a
replica takes as many prompts as full steps hold. A prompt's share of a full step is its service, and the wait that of
M/G/c: Erlang's chance of waiting times (1 + cv^2) / 2 of the wait of M/M/c (Lee and Longton, Operational Research
Quarterly 10, 1959), exact for one server (Pollaczek and Khinchine). Routers that look at replicas make one queue of
them, round robin a queue of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsesim.cost.accumulate import Floats
from sparsesim.study.planning.curves import Curves
from sparsesim.study.planning.operate import Demand, idle_watts

BUSIEST = 0.99
"""Load up to which waits are told apart."""


@dataclass(frozen=True, slots=True)
class PrefillPoints:
    """Of one replica, [points]: a prompt's own seconds, its mean wait, TTFT's percentile, watts, the highest rate."""

    own_s: Floats
    wait_s: Floats
    high_ttft_s: Floats
    power_w: Floats
    most_per_s: Floats


def prefilling(curves: Curves, demand: Demand, rate: Floats, servers: Floats, budget: int) -> PrefillPoints:
    """Points of a prefill replica under `rate` prompts/s, [points], at one token budget.

    Args:
        curves: of its layout.
        demand: lengths and percentile.
        rate: prompts/s of the replica.
        servers: replicas that share a queue.
        budget: which of the curves' token budgets.

    """
    own, full = curves.prompt[budget, 0], curves.full[budget]
    load = np.minimum(rate * full[0], 1.0)
    share = load[:, None]
    each = own * (1 - share) + full * share
    busy = np.minimum(rate * each[:, 0], 1.0)
    served = np.minimum(rate, 1.0 / full[0])
    queue = np.minimum(load, BUSIEST)
    chance = erlang_c(queue, servers)
    if_any = full[0] * (1 + demand.spread) / 2 / (servers * (1 - queue))
    beyond = max(1 - demand.percentile / 100, 1e-6)
    high = if_any * np.maximum(np.log(np.maximum(chance, 1e-300) / beyond), 0.0)
    return PrefillPoints(
        own_s=np.full_like(rate, own[0]),
        wait_s=chance * if_any,
        high_ttft_s=own[0] * demand.long_prompt + high,
        power_w=served * each[:, 1:].sum(axis=1) + idle_watts(curves, busy, rate),
        most_per_s=np.full_like(rate, 1.0 / full[0]),
    )


def erlang_c(load: Floats, servers: Floats) -> Floats:
    """The chance that a customer of M/M/c waits, by Erlang's recursion over servers; `load` of each is below 1."""
    offered, blocked, found = load * servers, np.ones_like(load), np.ones_like(load)
    for count in range(1, int(servers.max(initial=1)) + 1):
        blocked = offered * blocked / (count + offered * blocked)
        found = np.where(servers == count, blocked / (1 - load * (1 - blocked)), found)
    return np.asarray(found)
