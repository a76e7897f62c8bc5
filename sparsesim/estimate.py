"""The closed form: what a deployment does in the mean, without simulating a queue.

A replica that takes lam requests/s of prompts p and outputs o holds, by Little's law, B = lam * o * TPOT decoding
sequences. A decode iteration over B takes T_d(B) and every prompt lengthens the iterations it shares by
D = T_mixed - T_d, so that

    TPOT = T_d(1 + B) / (1 - lam * D),      B = lam * (o - 1) * TPOT

which has one root below saturation (found by bisection on B). A request sees its own sequence beside the B others. The
first token comes with the prompt's own iterations, after the rest of the one under way. What only a queue produces
(percentiles, bursts) is the simulation's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import COMPONENTS, Priced, price
from sparsesim.cost.kernel import BOUNDS
from sparsesim.cost.step import ReplicaSteps
from sparsesim.model.arch import Batch, Chunk
from sparsesim.system import PoolSystem

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a replica, op by op."""

    phase: str
    time_s: float
    energy_j: dict[str, float]
    priced: tuple[Priced, ...]
    host_s: float
    half_width: float
    bound: dict[str, float]


@dataclass(frozen=True, slots=True)
class Operating:
    """Means of one replica at an arrival rate."""

    ttft_s: float
    tpot_s: float
    e2e_s: float
    running: float
    utilisation: float
    output_tok_per_s: float
    power_w: float
    energy_j_per_s: dict[str, float]
    saturated: bool


def step(system: PoolSystem, phase: str, batch: Batch) -> Step:
    """A step of one replica of `batch` on each attention rank, op by op."""
    tasks = system.model.tasks(batch, system.setting)
    priced = tuple(item for item in price(tasks, system.costs) if float(np.sum(_size(item, batch))) > 0)
    steps = system.steps
    groups = system.setting.dp * system.setting.pp
    decode = round(float(np.sum(batch.decode)) * groups)
    chunks = [
        (round(float(c.q_tok)), round(float(c.kv_tok))) for c in batch.chunks for _ in range(round(float(c.count)))
    ]
    sampled = decode + len(chunks)
    if chunks:
        context = tuple(min(float(batch.context), w) for w in steps.windows)
        values = steps.mixed(decode, context, chunks, sampled)
    else:
        values = at_context(steps, decode, float(batch.context))
    return Step(
        phase,
        values[0],
        dict(zip(COMPONENTS, values[1:], strict=True)),
        priced,
        system.engine.host_s(sampled, system.model.vocab),
        half_width(priced),
        bound_shares(priced, system),
    )


def _size(item: Priced, batch: Batch) -> Floats:
    del batch
    return item.cost.time_s


def at_context(steps: ReplicaSteps, sequences: int, context: float) -> list[float]:
    """Values of a decode iteration in which every sequence attends to `context` tokens."""
    curve = steps.decode(sequences)
    total = curve.base.copy()
    for channel in curve.channels:
        c = min(context, channel.window)
        i = int(np.clip(np.searchsorted(channel.knots, c, side="right") - 1, 0, max(len(channel.knots) - 2, 0)))
        if len(channel.knots) == 1:
            total += channel.values[0]
            continue
        slope = (channel.values[i + 1] - channel.values[i]) / (channel.knots[i + 1] - channel.knots[i])
        total += channel.values[i] + slope * (c - channel.knots[i])
    values: list[float] = total.tolist()
    return values


def half_width(priced: Sequence[Priced]) -> float:
    """Half-width (log) of a step's 90 % interval: errors are shared within a kernel class, independent between them."""
    by_class: dict[str, tuple[float, float]] = {}
    whole = 0.0
    for item in priced:
        seconds = item.task.count * float(np.sum(item.cost.time_s))
        share, worst = by_class.get(item.cost.kernel_class, (0.0, 0.0))
        by_class[item.cost.kernel_class] = share + seconds, worst + seconds * float(np.mean(item.cost.half_width))
        whole += seconds
    return math.sqrt(sum((weighted / whole) ** 2 for _, weighted in by_class.values())) if whole else 0.0


def bound_shares(priced: Sequence[Priced], system: PoolSystem) -> dict[str, float]:
    """Share of a step's time bound by compute, memory, network and host (launches and gaps count as host)."""
    shares = dict.fromkeys(BOUNDS, 0.0)
    for item in priced:
        seconds = item.task.count * float(np.sum(item.cost.time_s)) * system.engine.quality.value
        shares[BOUNDS[int(np.ravel(item.cost.bound)[0])]] += seconds
        shares["host"] += item.task.count * system.engine.gap.value
    shares["host"] += system.engine.host_per_step.value
    whole = sum(shares.values())
    return {name: value / whole for name, value in shares.items()}


def mean_decode(steps: ReplicaSteps, sequences: float, first: float, last: float) -> Floats:
    """Values of a decode iteration averaged over contexts from `first` to `last`, sequences not whole interpolated."""
    low = max(math.floor(sequences), 1)
    contexts = np.linspace(first, max(last, first), 9)
    rows = [np.mean([at_context(steps, n, float(c)) for c in contexts], axis=0) for n in (low, low + 1)]
    weight = min(max(sequences - low, 0.0), 1.0)
    return np.asarray(rows[0] * (1 - weight) + rows[1] * weight)


def prefill(steps: ReplicaSteps, prompt: int, budget: int, decode: int = 0, context: float = 0.0) -> Floats:
    """Values of the iterations that compute one prompt in chunks of the token budget, beside `decode` sequences."""
    total = np.zeros(1 + len(COMPONENTS))
    contexts = tuple(min(context, w) for w in steps.windows)
    done, room = 0, max(budget - decode, 1)
    while done < prompt:
        chunk = min(room, prompt - done)
        done += chunk
        total += steps.mixed(decode, contexts, [(chunk, done)], decode + (done == prompt))
    return total


def operating(system: PoolSystem, rate_per_s: float, prompt_tok: float, output_tok: float) -> Operating:
    """Means of one replica that takes `rate_per_s` requests of `prompt_tok` and `output_tok` tokens."""
    steps, prompt = system.steps, max(round(prompt_tok), 1)
    budget = int(getattr(system.pool.scheduler, "token_budget", prompt))
    first, last = prompt_tok + 1, prompt_tok + max(output_tok - 1, 1)

    def iteration(others: float) -> tuple[Floats, Floats, float]:
        decode = mean_decode(steps, 1 + others, first, last)
        own = prefill(steps, prompt, budget, round(others), (first + last) / 2)
        beside = mean_decode(steps, others, first, last) * min(others, 1.0)
        slower = rate_per_s * max(own[0] - math.ceil(prompt / budget) * beside[0], 0.0)
        return decode, own, slower

    def surplus(others: float) -> float:
        decode, _, slower = iteration(others)
        if slower >= 1:
            return math.inf
        return rate_per_s * max(output_tok - 1, 0) * decode[0] / (1 - slower) - others

    most = float(system.max_running)
    saturated = surplus(most) > 0
    running = most if saturated else _root(surplus, most)
    decode, own, slower = iteration(running)
    tpot = float(decode[0]) / max(1 - slower, 1e-9)
    served = min(rate_per_s, most / max((output_tok - 1) * tpot, 1e-12)) if saturated else rate_per_s
    busy = min(1.0, running / max(1 + running, 1e-9) + served * float(own[0]))
    ttft = float(own[0]) + min(1.0, running) * float(decode[0]) / 2
    joules = served * own[1:] + decode[1:] / decode[0] * min(1.0, running * (1 - slower) if running < 1 else 1 - slower)
    active = min(1.0, served * float(own[0]) + min(running, 1.0) * (1 - slower))
    idle = (1 - active) * steps.active_idle_w
    energy = dict(zip(COMPONENTS, joules.tolist(), strict=True))
    energy["static"] += idle
    return Operating(
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=ttft + tpot * max(output_tok - 1, 0),
        running=running,
        utilisation=busy,
        output_tok_per_s=served * output_tok,
        power_w=sum(energy.values()),
        energy_j_per_s=energy,
        saturated=saturated,
    )


def _root(surplus: object, most: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(surplus, 0.0, most, xtol=1e-6, rtol=1e-9))


__all__ = ["Batch", "Chunk", "Operating", "Step", "operating", "step"]
