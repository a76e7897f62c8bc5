"""Attention and routed experts on devices of their own: a step as a ping-pong of micro-batches between two groups.

Attention-FFN disaggregation as in MegaScale-Infer (arXiv 2504.02263) and Step-3 (arXiv 2507.19427). A batch is cut
into m micro-batches. In each of L layers with experts a micro-batch passes attention a, the transfer to the experts'
devices d, the experts f and the transfer back c; a stage takes one micro-batch at a time. With S = a + d + f + c and
b the longest of the four,

    T = S + (L - 1) max(m b, S) + (m - 1) b

which is exact for equal micro-batches in order: the first goes through (S), every further layer takes as long as the
slowest stage needs for all micro-batches or one of them for its round, and the last ones drain. m = 1 gives L S; where
m b >= S the slowest stage never waits and T = S + b (m L - 1).

The attention devices also compute what has no experts (embedding, dense layers, shared experts, router), its time
spread evenly over the L layers, and the head once for the whole batch, after the last layer. Micro-batches read the
weights each. The power cap holds for a device's mean power over a step, its waiting included; waiting draws the static
power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sparsesim.cost.accumulate import (
    COLLECTIVE,
    COMPUTE,
    CORE,
    EXPERTS,
    LINK,
    MEMORY,
    TIME,
    WIDTH,
    Floats,
    Priced,
    device_seconds,
    price,
    totals,
)
from sparsesim.cost.curve import DecodeCurve
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.network.exchange import Exchange
from sparsesim.cost.power import PowerModel, clock_where
from sparsesim.cost.step import ReplicaSteps
from sparsesim.cost.tables import Table
from sparsesim.hardware.device.gpu import Chip
from sparsesim.model.arch import Batch, Model
from sparsesim.model.setting import Setting
from sparsesim.work import Array, Task

NOTHING = (0.0,) * WIDTH
ROUNDS = 4
"""In which both groups' clocks are found: a third changes a step by less than 0.1 % where both are capped."""


def ping_pong_s(layers: int, micro_batches: int, *stages: Array) -> Floats:
    """Seconds of `micro_batches` equal micro-batches through `layers` rounds of the stages (seconds of one each)."""
    slowest = np.asarray(stages[0], float)
    for stage in stages[1:]:
        slowest = np.maximum(slowest, stage)
    whole = np.asarray(sum(stages))
    rounds = np.maximum(micro_batches * slowest, whole)
    return np.asarray(whole + (layers - 1) * rounds + (micro_batches - 1) * slowest)


@dataclass(frozen=True)
class FfnGroup:
    """Devices of a replica that compute the routed experts and nothing else.

    Attributes:
        model: what runs.
        setting: its ranks are these devices, its ep that of the experts.
        costs: what they are.
        micro_batches: that a batch is cut into.
        there, back: the exchanges with the attention devices.

    """

    model: Model
    setting: Setting
    costs: CostModel
    micro_batches: int
    there: Exchange
    back: Exchange

    @property
    def devices(self) -> int:
        """Of one replica."""
        return self.setting.ranks

    @cached_property
    def layers(self) -> int:
        """Layers with routed experts."""
        return self.model.expert_layers

    @cached_property
    def rows(self) -> Table:
        """Totals of all layers' experts on one device, by tokens of all attention ranks."""
        return Table(lambda t: totals(price(self.model.expert_tasks(t, self.setting), self.costs), t.shape))


@dataclass(frozen=True, kw_only=True)
class SplitSteps(ReplicaSteps):
    """`ReplicaSteps` of attention devices (`devices`, `costs`, `tables`) with `ffn` devices for the experts."""

    ffn: FfnGroup

    @property
    def idle_w(self) -> float:
        """All devices at low clocks."""
        return super().idle_w + self.ffn.costs.power.idle_w * self.ffn.devices

    @property
    def active_idle_w(self) -> float:
        """All devices at full clocks with nothing to do."""
        return super().active_idle_w + self.ffn.costs.gpu.power.active_idle.value * self.ffn.devices

    def _micro(self, held: int) -> tuple[int, int]:
        """What of a rank's tokens or sequences a micro-batch has, and how many micro-batches have any."""
        each = math.ceil(held / self.ffn.micro_batches)
        return each, math.ceil(held / each)

    def decode(self, sequences: int) -> DecodeCurve:
        """A step in which every one of `sequences` gets a token."""
        if sequences not in self._curves:
            held = math.ceil(sequences / self._groups)
            each, _ = self._micro(held)
            fixed, by_window = self.tables.decode(each)
            base = np.add(self.tables.tokens.at(each), fixed)
            self._curves[sequences] = self._curve(sequences, held, base, by_window)
        return self._curves[sequences]

    def mixed_at(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """A step with prompt chunks: a micro-batch has its part of everything a rank has."""
        groups, tables = self._groups, self.tables
        tokens = math.ceil((decode + sum(q for q, _ in chunks)) / groups)
        each, number = self._micro(tokens)
        rows = [tables.tokens.at(each)]
        if decode:
            rows += tables.decode_rows(math.ceil(decode / (groups * number)), contexts)
        rows += [tuple(v / number for v in row) for row in tables.chunks(chunks, groups)]
        head = tables.head.at(math.ceil(sampled / groups)) if sampled else NOTHING
        values: list[float] = self._joined(np.sum(rows, axis=0), head, tokens, decode + len(chunks)).tolist()
        return values

    def _finished(self, total: Floats, tokens: int, sequences: int) -> Floats:
        """Values of a decode step whose micro-batches have `total` each on an attention device."""
        return self._joined(total, self.tables.head.at(tokens), tokens, sequences)

    def _joined(self, attention: Floats, head: Sequence[float], tokens: int, sequences: int) -> Floats:
        """Time and joules by component of all devices, [..., 5]; `tokens` are those of an attention rank."""
        each, number = self._micro(tokens)
        ffn, engine, overhead = self.ffn, self.engine, self.overhead(tokens, sequences)
        batch, scale = each * self._groups, _times(self.stretch)
        micro, last, experts = attention * scale, np.array(head) * scale, np.array(ffn.rows.at(batch)) * scale
        powers = self.costs.power, ffn.costs.power
        ours, end, theirs = (_Busy(*device_seconds(one, engine, overhead.graph)) for one in (micro, last, experts))
        factor = engine.collectives.value * self.stretch
        there, back = (factor * one.time_s(batch) for one in (ffn.there, ffn.back))

        def step_s(own: Floats, other: Floats) -> Floats:
            stages = ours.at(own) / ffn.layers, there, theirs.at(other) / ffn.layers, back
            looped = ping_pong_s(ffn.layers, number, *stages)
            return looped + end.at(own) + overhead.host_s + overhead.sampling_s

        sampled = np.zeros(WIDTH)
        sampled[MEMORY] = overhead.sampling_s * overhead.sampling_w
        joules = number * micro + last + sampled, number * experts
        own, other = _clocks(step_s, joules, powers)
        time = step_s(own, other)
        moved = number * ffn.layers * (ffn.there.energy_j(batch) + ffn.back.energy_j(batch))
        parts = [
            n * np.stack(np.broadcast_arrays(time, *_components(one, clock, time, power))[1:], axis=-1)
            for n, one, clock, power in zip((self.devices, ffn.devices), joules, (own, other), powers, strict=True)
        ]
        values = np.concatenate([time[..., None], parts[0] + parts[1]], axis=-1)
        values[..., 3] += moved
        return values

    def priced(self, batch: Batch) -> tuple[Priced, ...]:
        """The kernels of all micro-batches on an attention device, then those on an expert device and between them."""
        held = max(math.ceil(float(np.asarray(batch.tokens))), 1)
        each, number = self._micro(held)
        chunks = tuple(replace(chunk, count=chunk.count / number) for chunk in batch.chunks)
        micro = replace(batch, decode=batch.decode / number, chunks=chunks, sampled=0)
        tasks = [task.times(number) for task in self.tasks(micro)] + self.head(batch)
        found = price(tasks, self.costs)
        ffn, tokens = self.ffn, float(each * self._groups)
        experts = [task.times(number) for task in ffn.model.expert_tasks(tokens, ffn.setting)]
        found += price(experts, ffn.costs)
        for part, one in (("moe.dispatch", ffn.there), ("moe.combine", ffn.back)):
            op = replace(one.op, tokens=tokens / one.senders)
            cost = one.cost(tokens, self.costs.power.static_w)
            found.append(Priced(Task(part, op, number * ffn.layers), cost))
        return tuple(found)

    def on_chips(self, priced: Iterable[Priced]) -> list[tuple[Chip, list[Priced]]]:
        """Kernels by the chip that runs them."""
        ours, theirs = list[Priced](), list[Priced]()
        for item in priced:
            (theirs if item.task.part == "moe.experts" else ours).append(item)
        return [(self.costs.chip, ours), (self.ffn.costs.chip, theirs)]


@dataclass(frozen=True, slots=True)
class _Busy:
    """Seconds of a device at full clocks, and the part of them that stretches as clocks drop."""

    seconds: Floats
    core_s: Floats

    def at(self, clock: Floats) -> Floats:
        """Seconds at a share of the full clock."""
        return np.asarray(self.seconds + self.core_s * (1.0 / clock - 1.0))


def _components(joules: Floats, clock: Floats, time_s: Floats, power: PowerModel) -> tuple[Floats, ...]:
    """Compute, memory, link and static joules of a device in a step."""
    compute = joules[..., COMPUTE] * clock**power.exponent
    return compute, joules[..., MEMORY], joules[..., LINK], power.static_w * time_s


def _clocks(
    step_s: Callable[[Floats, Floats], Floats], joules: tuple[Floats, Floats], powers: tuple[PowerModel, PowerModel]
) -> tuple[Floats, Floats]:
    """Clocks of both groups at which neither's mean power over the step exceeds its cap, found in turns.

    A slower group lengthens the step, which lets the other draw less: what one round finds is within the caps, and the
    next ones only bring the first group's clock back up.
    """

    def watts(side: int, clock: Floats, time_s: Floats) -> Floats:
        return np.asarray(sum(_components(joules[side], clock, time_s, powers[side])) / time_s)

    shape = np.broadcast_shapes(joules[0].shape[:-1], joules[1].shape[:-1])
    own = other = np.ones(shape)
    for _ in range(ROUNDS):
        fixed = other
        own = clock_where(lambda f: watts(0, f, step_s(f, fixed)), powers[0].cap_w, shape)  # noqa: B023
        kept = own
        other = clock_where(lambda f: watts(1, f, step_s(kept, f)), powers[1].cap_w, shape)  # noqa: B023
        if (other == 1.0).all():
            break
    return own, other


def _times(stretch: float) -> Floats:
    """Factors on totals that scale times and leave joules."""
    scale = np.ones(WIDTH)
    scale[[TIME, EXPERTS, COLLECTIVE, CORE]] = stretch
    return scale
