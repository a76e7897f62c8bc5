"""The closed form (`sparsesim.closed_form`) for many operating points of one layout at once.

The number B of decoding sequences solves B = lam (o - 1) T(1 + B) / (1 - lam D(B)); here by bisection over arrays on
the layout's curves. Prompts-first schedulers (SGLang) let decoding pause: D is then the whole of a prompt's own time.

Percentiles, which the closed form does not have, are predicted for ranking only; simulation decides. The batch and the
number of prompts that a request meets are taken as Poisson; a prompt waits for the prompts before it as in an M/G/1
queue, and for a place in the batch as in an M/M/c queue (Halfin and Whitt, Operations Research 29, 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from sparsesim.cost.accumulate import Floats
from sparsesim.handover import Gaps
from sparsesim.metrics.energy import CLOCK_HOLD_S
from sparsesim.study.planning.curves import Curves, Load

BISECTIONS = 36


@dataclass(frozen=True, slots=True)
class Demand:
    """What a deployment is asked for: lengths, and the percentile that its SLO is about.

    `long_prompt` and `long_output` are the lengths at that percentile over the mean ones, `spread` the squared
    coefficient of variation of prompts, `deviations` how many standard deviations of a normal variable the percentile
    lies out.
    """

    load: Load
    rate_per_s: float
    percentile: float
    long_prompt: float
    long_output: float
    spread: float
    deviations: float
    gaps: Gaps = Gaps()


@dataclass(frozen=True, slots=True)
class Points:
    """Operating points of one replica, [points]: means, predicted percentiles, watts, and the highest rate."""

    running: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    high_ttft_s: Floats
    high_tpot_s: Floats
    high_e2e_s: Floats
    power_w: Floats
    most_per_s: Floats
    saturated: npt.NDArray[np.bool_]


def operate(curves: Curves, demand: Demand, rate: Floats, most: Floats, budget: int, pausing: bool) -> Points:
    """Points of a replica under `rate` requests/s with at most `most` sequences, at one token budget.

    Args:
        curves: of the layout.
        demand: lengths and percentile; its own rate is not used.
        rate: requests/s of the replica, [points].
        most: sequences at most, [points].
        budget: which of the curves' token budgets.
        pausing: whether decoding pauses while prompts are computed.

    """
    seen = _Seen(curves, demand, budget, pausing)
    tokens = max(demand.load.output_tok - 1.0, 0.0)
    most_per_s = most / np.maximum(tokens * seen.decode(1 + most) + most * seen.lengthening(most), 1e-300)
    saturated = rate >= most_per_s
    low, high = np.zeros_like(rate), most.astype(float)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = seen.surplus(rate, middle, tokens) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    running = np.where(saturated, most, (low + high) / 2)
    served = np.where(saturated, most_per_s, rate)
    return _points(seen, demand, served, running, most, most_per_s, saturated)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The curves between their knots."""

    curves: Curves
    demand: Demand
    budget: int
    pausing: bool

    def decode(self, sequences: Floats, column: int = 0) -> Floats:
        return np.asarray(np.interp(sequences, self.curves.sequences, self.curves.decode[:, column]))

    def prompt(self, others: Floats, column: int = 0) -> Floats:
        rows = self.curves.prompt[self.budget, :, column]
        if self.pausing:
            return np.full_like(others, rows[0])
        return np.asarray(np.interp(others, self.curves.sequences, rows))

    def lengthening(self, others: Floats) -> Floats:
        """Seconds by which one prompt lengthens the decoding of the others."""
        own = self.prompt(others)
        if self.pausing:
            return own
        number = np.interp(others, self.curves.sequences, self.curves.iterations[self.budget])
        return np.asarray(np.maximum(own - number * self.decode(others) * np.minimum(others, 1.0), 0.0))

    def surplus(self, rate: Floats, others: Floats, tokens: float) -> Floats:
        left = 1.0 - rate * self.lengthening(others)
        wanted = rate * tokens * self.decode(1 + others) / np.where(left > 0, left, 1.0)
        return np.asarray(np.where(left > 0, wanted - others, np.inf))


def _points(
    seen: _Seen,
    demand: Demand,
    rate: Floats,
    running: Floats,
    most: Floats,
    most_per_s: Floats,
    saturated: npt.NDArray[np.bool_],
) -> Points:
    tokens = max(demand.load.output_tok - 1.0, 0.0)
    step, own, slower = seen.decode(1 + running), seen.prompt(running), rate * seen.lengthening(running)
    tpot = np.where(saturated, running / np.maximum(rate * tokens, 1e-300), step / np.maximum(1 - slower, 1e-9))
    decoding = 1.0 - np.exp(-running)
    ttft = own + decoding * step / 2
    z = demand.deviations
    crowded = seen.decode(1 + running + z * np.sqrt(running))
    met = np.maximum(rate * tokens * tpot, 1e-9)
    high_tpot = crowded / np.maximum(1 - slower * (1 + z / np.sqrt(met)), 0.02)
    queued = _waiting(rate * own, own, demand) + _places(running, most, tpot * tokens, demand)
    high_ttft = ttft + own * (demand.long_prompt - 1) + queued
    infinite = np.where(saturated, np.inf, 1.0)
    return Points(
        running=running,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=ttft + tpot * tokens,
        high_ttft_s=high_ttft * infinite,
        high_tpot_s=np.maximum(high_tpot, tpot),
        high_e2e_s=(high_ttft + tpot * tokens * demand.long_output) * infinite,
        power_w=_watts(seen, rate, running, own, decoding),
        most_per_s=most_per_s,
        saturated=saturated,
    )


def _waiting(load: Floats, own_s: Floats, demand: Demand) -> Floats:
    """The percentile of an M/G/1 queue's wait, its tail taken as exponential."""
    load = np.minimum(load, 0.99)
    mean_if_any = own_s * (1 + demand.spread) / 2 / (1 - load)
    beyond = 1 - demand.percentile / 100
    tail = np.log(np.maximum(load, 1e-12) / max(beyond, 1e-6))
    return np.asarray(np.maximum(mean_if_any * tail, 0.0))


def _places(running: Floats, most: Floats, held_s: Floats, demand: Demand) -> Floats:
    """The percentile of the wait for one of `most` places that `running` sequences hold for `held_s` each."""
    left = np.maximum(most - running, 1e-9)
    beta = left / np.sqrt(np.maximum(running, 1e-9))
    density = np.exp(-(np.minimum(beta, 30.0) ** 2) / 2) / math.sqrt(2 * math.pi)
    chance = 1 / (1 + beta * ndtr(beta) / np.maximum(density, 1e-300))
    beyond = max(1 - demand.percentile / 100, 1e-6)
    return np.asarray(np.maximum(held_s / left * np.log(np.maximum(chance, 1e-300) / beyond), 0.0))


def _watts(seen: _Seen, rate: Floats, running: Floats, own: Floats, decoding: Floats) -> Floats:
    """Mean power of the replica's devices: prompts, decoding, and idling with clocks that stay up a while."""
    prefilling = np.minimum(rate * own, 1.0)
    busy = np.minimum(1.0, prefilling + decoding * (1 - prefilling))
    width = seen.curves.decode.shape[1]
    prompts = sum(seen.prompt(running, k) for k in range(1, width))
    steps = sum(seen.decode(1 + running, k) for k in range(1, width))
    idle = idle_watts(seen.curves, busy, rate)
    return np.asarray(rate * prompts + steps / seen.decode(1 + running) * (busy - prefilling) + idle)


def idle_watts(curves: Curves, busy: Floats, rate: Floats) -> Floats:
    """Mean power of a replica's devices between steps, whose gaps are exponential."""
    gap = (1 - busy) / np.maximum(rate, 1e-300)
    dropped = np.exp(-CLOCK_HOLD_S / np.maximum(gap, 1e-300))
    return np.asarray((1 - busy) * (curves.active_idle_w * (1 - dropped) + curves.idle_w * dropped))
