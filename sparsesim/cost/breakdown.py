"""A step op by op: its cost, what bounds it, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsesim.cost.accumulate import COMPONENTS, Floats, Priced, engine_seconds
from sparsesim.cost.curve import Channel
from sparsesim.cost.kernel import BOUNDS
from sparsesim.cost.step import ReplicaSteps
from sparsesim.model.arch import Batch


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a replica: seconds, joules of all its devices, and the ops of one device behind it.

    `half_width` is that of the 90 % interval of the time, in log; `bound` the shares of it bound by compute, memory,
    network and host.
    """

    phase: str
    time_s: float
    energy_j: dict[str, float]
    priced: tuple[Priced, ...]
    half_width: float
    bound: dict[str, float]


def step(steps: ReplicaSteps, phase: str, batch: Batch) -> Step:
    """A step of `batch` on each attention rank."""
    priced = steps.priced(batch)
    groups = steps.setting.dp * steps.setting.pp
    decode = round(float(batch.decode) * groups)
    chunks = [(round(float(c.q_tok)), round(float(c.kv_tok))) for c in batch.chunks] * groups
    if chunks:
        contexts = tuple(min(float(batch.context), window) for window in steps.windows)
        values = list(steps.mixed(decode, contexts, chunks, decode + len(chunks)))
    else:
        values = at_context(steps, decode, float(batch.context))
    energy = dict(zip(COMPONENTS, values[1:], strict=True))
    return Step(phase, values[0], energy, priced, half_width(steps, priced, values[0]), bound_shares(steps, priced))


def at_context(steps: ReplicaSteps, sequences: int, context: float) -> list[float]:
    """Values of a decode iteration in which every sequence attends to `context` tokens."""
    curve = steps.decode(sequences)
    total = curve.base.copy()
    for channel in curve.channels:
        total += _on(channel, min(context, channel.window))
    values: list[float] = total.tolist()
    return values


def _on(channel: Channel, context: float) -> Floats:
    """A channel's values at a context: linear between knots and beyond the last, as the simulation takes them."""
    if len(channel.knots) == 1:
        return np.asarray(channel.values[0])
    i = int(np.clip(np.searchsorted(channel.knots, context, side="right") - 1, 0, len(channel.knots) - 2))
    share = (context - channel.knots[i]) / (channel.knots[i + 1] - channel.knots[i])
    return np.asarray(channel.values[i] * (1 - share) + channel.values[i + 1] * share)


def mean_decode(steps: ReplicaSteps, sequences: float, first: float, last: float) -> Floats:
    """A decode iteration averaged over contexts from `first` to `last`; broken numbers of sequences interpolated."""
    low = max(math.floor(sequences), 1)
    contexts = np.linspace(first, max(last, first), 9)
    rows = [np.mean([at_context(steps, n, float(c)) for c in contexts], axis=0) for n in (low, low + 1)]
    weight = min(max(sequences - low, 0.0), 1.0)
    return np.asarray(rows[0] * (1 - weight) + rows[1] * weight)


def half_width(steps: ReplicaSteps, priced: Sequence[Priced], time_s: float) -> float:
    """Half-width (log) of a step's 90 % interval.

    Errors are shared within a kernel class and independent between classes and the engine, so squares of share times
    half-width add up. An engine's own error (of models left out of its fit) is that of the whole step, unless it runs
    the very kernels that were measured; then it is that of its overheads.
    """
    by_class: dict[str, float] = {}
    kernels = 0.0
    for item in priced:
        seconds = engine_seconds(item, steps.engine)
        own = by_class.get(item.cost.kernel_class, 0.0)
        by_class[item.cost.kernel_class] = own + seconds * float(np.mean(item.cost.half_width))
        kernels += seconds
    own_kernels = steps.engine.quality.kind == "derived"
    overhead = max(time_s - kernels, 0.0) if own_kernels else time_s
    parts = [weighted / time_s for weighted in by_class.values()] + [overhead / time_s * steps.engine.half_width]
    return math.sqrt(sum(part**2 for part in parts))


def bound_shares(steps: ReplicaSteps, priced: Sequence[Priced]) -> dict[str, float]:
    """Share of a step's time bound by compute, memory, network and host; launches and gaps count as host."""
    engine = steps.engine
    shares = dict.fromkeys(BOUNDS, 0.0)
    for item in priced:
        seconds = engine_seconds(item, engine)
        shares[BOUNDS[int(np.ravel(item.cost.bound)[0])]] += seconds
        shares["host"] += item.task.count * engine.gap.value
    shares["host"] += engine.host_per_step.value
    whole = sum(shares.values())
    return {name: value / whole for name, value in shares.items()}
