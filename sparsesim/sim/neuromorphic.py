"""Tokens through event-driven cores, message by message (in bundles), with queues where they form.

A core sends and receives at once. Sending: neuron by neuron, those that pass their threshold as spikes, each as one
message to every core that listens. A message runs over the mesh, column by column and then row by row, one bundle at a
time on each link, and waits in the receiver's first-in-first-out queue until the core has multiplied those before it.
A step ends when every core has drained, what leaves for another chip has crossed its link, and the barrier has closed.

`cost.neuromorphic.closed_form` is the same without queues: a step can only take longer than its busiest core or link,
by the time the first message needs to come through and by whatever waits. With `seed` the number of active inputs is
drawn for every token and projection (binomial; its share from the histogram of densities where there is one), so that
the slowest core of a step is a maximum over draws.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import simpy

from sparsesim.cost.neuromorphic.closed_form import tiles_used
from sparsesim.cost.neuromorphic.densities import Phase
from sparsesim.cost.neuromorphic.events import Layout, layout
from sparsesim.cost.neuromorphic.machine import Machine
from sparsesim.cost.neuromorphic.mapping import Mapping, StageMap
from sparsesim.cost.neuromorphic.stages import Projection

Floats = npt.NDArray[np.float64]
Wait = Generator[simpy.Event, object, None]
Link = tuple[int, int, int, int, int]
"""Chip, then column and row of the tile it leaves and of the one it enters."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One simulated step of a layer: seconds, busy seconds of each core's receiver and of each link, longest queue."""

    stage: str
    time_s: float
    core_s: float
    receiving_s: Floats
    links_s: dict[Link, float]
    longest_queue: int
    messages: float


@dataclass(frozen=True, slots=True)
class NeuromorphicRun:
    """Tokens run to their end: the mean interval between them, and the steps of the first token."""

    tokens: int
    total_s: float
    interval_s: float
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True)
class _Sending:
    """What one core sends in a step: seconds of its neurons, and spikes with the cores that listen."""

    core: int
    neuron_s: float
    spikes: tuple[tuple[float, tuple[int, ...]], ...]


@dataclass
class _Fabric:
    """Queues and links of one layer's chips during one step."""

    env: simpy.Environment
    where: Layout
    m: Machine
    links: dict[Link, simpy.Resource] = field(default_factory=dict)
    busy_s: dict[Link, float] = field(default_factory=dict)
    ports: dict[int, simpy.Resource] = field(default_factory=dict)
    longest_queue: int = 0

    @cached_property
    def inboxes(self) -> list[simpy.Store]:
        """First in, first out."""
        return [simpy.Store(self.env) for _ in self.where.chip]

    def deliver(self, source: int, target: int, messages: float) -> Wait:
        """A bundle from core to core."""
        if self.where.chip[source] != self.where.chip[target]:
            port = self.ports.setdefault(int(self.where.chip[target]), simpy.Resource(self.env))
            yield from self._cross(port, messages * self.m.link_s)
        else:
            for link, seconds in self._path(source, target):
                resource = self.links.setdefault(link, simpy.Resource(self.env))
                self.busy_s[link] = self.busy_s.get(link, 0.0) + messages * seconds
                yield from self._cross(resource, messages * seconds)
        self.inboxes[target].put(messages)
        self.longest_queue = max(self.longest_queue, len(self.inboxes[target].items))

    def _cross(self, resource: simpy.Resource, seconds: float) -> Wait:
        with resource.request() as turn:
            yield turn
            yield self.env.timeout(seconds)

    def _path(self, source: int, target: int) -> Iterator[tuple[Link, float]]:
        chip = int(self.where.chip[source])
        x, y = int(self.where.column[source]), int(self.where.row[source])
        to_x, to_y = int(self.where.column[target]), int(self.where.row[target])
        while x != to_x:
            step = 1 if to_x > x else -1
            yield (chip, x, y, x + step, y), self.m.time_s["hop_east_west"]
            x += step
        while y != to_y:
            step = 1 if to_y > y else -1
            yield (chip, x, y, x, y + step), self.m.time_s["hop_north_south"]
            y += step


def simulate_neuromorphic(
    mapping: Mapping, m: Machine, phase: Phase, tokens: int = 1, *, bundle: float = 64.0, seed: int | None = None
) -> NeuromorphicRun:
    """Run tokens through a mapped model.

    Args:
        mapping: layers on cores.
        m: the machine.
        phase: `prefill` runs every layer at once, each on its own token; `generate` one phase of one layer at a time.
        tokens: how many; with no seed all are alike and one is simulated.
        bundle: messages that move together; smaller is finer and slower.
        seed: draw the active inputs; none: their means.

    """
    rng = None if seed is None else np.random.default_rng(seed)
    rounds = [_token(mapping, m, phase, bundle, rng) for _ in range(tokens if rng is not None else 1)]
    times = [_round_s(records, phase) for records in rounds]
    interval = float(np.mean(times))
    filling = (sum(len(s.stage.phases) + 1 for s in mapping.stages) - 1) * interval if phase == "prefill" else 0.0
    return NeuromorphicRun(tokens, tokens * interval + filling, interval, tuple(rounds[0]))


def _round_s(records: list[StepRecord], phase: Phase) -> float:
    """Between tokens: the slowest layer's step, or all steps."""
    return max(r.time_s for r in records) if phase == "prefill" else sum(r.time_s for r in records)


def _token(
    mapping: Mapping, m: Machine, phase: Phase, bundle: float, rng: np.random.Generator | None
) -> list[StepRecord]:
    slowed = replace(m, time_s={name: t * m.fall_through for name, t in m.time_s.items()})
    records: list[StepRecord] = []
    known: dict[object, list[StepRecord]] = {}
    for index, stage in enumerate(mapping.stages):
        last = index + 1 == len(mapping.stages)
        crosses = not last and mapping.stages[index + 1].first_chip not in set(stage.chips(m.cores))
        alike = (stage.stage.phases, stage.stage.communication, stage.first_core, crosses)
        if rng is not None or alike not in known:
            steps = [range(len(stage.stage.phases) + 1)] if phase == "prefill" else _one_by_one(stage)
            machine = m if phase == "prefill" else slowed
            known[alike] = [_step(stage, machine, s, crosses, bundle, rng) for s in steps]
        records += known[alike]
    return records


def _one_by_one(stage: StageMap) -> list[range]:
    return [range(p, p + 1) for p in range(len(stage.stage.phases) + 1)]


def _step(
    stage: StageMap, m: Machine, phases: range, crosses: bool, bundle: float, rng: np.random.Generator | None
) -> StepRecord:
    """One step in which the given phases (the last one: sending the layer's result on) are active."""
    env = simpy.Environment()
    where = layout(stage, m)
    fabric = _Fabric(env, where, m)
    sendings = [s for phase in phases for s in _sendings(stage, where, phase, m, rng)]
    expected = np.zeros(stage.cores, dtype=int)
    for sending in sendings:
        for spikes, targets in sending.spikes:
            for target in targets:
                expected[target] += math.ceil(spikes / bundle)
        env.process(_send(fabric, sending, bundle))
    exits = len(stage.stage.phases) in phases
    if exits:
        expected += _enter(stage, where, fabric)
    each = m.time_s["receive"] + where.neurons * m.time_s["synop"]
    busy = np.zeros(stage.cores)
    for core in np.flatnonzero(expected):
        env.process(_receive(fabric, int(core), int(expected[core]), float(each[core]), busy))
    env.run()
    core_s = float(env.now)
    crossing = stage.stage.communication * stage.stage.d_model if crosses and exits else 0.0
    time_s = core_s + crossing * m.link_s + m.barrier_s(tiles_used(stage, m))
    messages = sum(spikes * len(targets) for s in sendings for spikes, targets in s.spikes)
    return StepRecord(stage.stage.name, time_s, core_s, busy, fabric.busy_s, fabric.longest_queue, messages)


def _enter(stage: StageMap, where: Layout, fabric: _Fabric) -> npt.NDArray[np.int64]:
    """The previous layer's result lies in the queues of the entry cores, as receives without synops."""
    entry = where.phase == 0
    share = stage.stage.communication * stage.stage.d_model / float(entry.sum())
    receive = fabric.m.time_s["receive"]
    each = receive + where.neurons * fabric.m.time_s["synop"]
    for core in np.flatnonzero(entry):
        fabric.inboxes[int(core)].put(share * receive / float(each[core]))
    arrivals: npt.NDArray[np.int64] = entry.astype(np.int64)
    return arrivals


def _send(fabric: _Fabric, sending: _Sending, bundle: float) -> Wait:
    env, times = fabric.env, fabric.m.time_s
    total = sum(spikes for spikes, _ in sending.spikes)
    if total == 0:
        yield env.timeout(sending.neuron_s)
    for spikes, targets in sending.spikes:
        count = math.ceil(spikes / bundle)
        for _ in range(count):
            n = spikes / count
            yield env.timeout(n * (times["spike"] + sending.neuron_s / total))
            for target in targets:
                yield env.timeout(n * times["message"])
                env.process(fabric.deliver(sending.core, target, n))
            if not targets:
                yield env.timeout(n * times["message"])


def _receive(fabric: _Fabric, core: int, bundles: int, each_s: float, busy: Floats) -> Wait:
    for _ in range(bundles):
        messages = yield fabric.inboxes[core].get()
        assert isinstance(messages, float)
        busy[core] += messages * each_s
        yield fabric.env.timeout(messages * each_s)


def _sendings(
    stage: StageMap, where: Layout, phase: int, m: Machine, rng: np.random.Generator | None
) -> list[_Sending]:
    """What the sources of a phase send; past the last phase, the layer's result, to nobody inside."""
    looking = m.time_s["neuron_access"] + m.time_s["neuron_update"]
    sources, neurons = _sources(stage, where, phase)
    flows: list[tuple[float, tuple[int, ...]]] = []
    if phase == len(stage.stage.phases):
        flows.append((stage.stage.communication * stage.stage.d_model, ()))
    for i, mapped in enumerate(stage.projections):
        if mapped.phase == phase:
            active = _active(mapped.projection, rng)
            flows.append((active, tuple(np.flatnonzero(where.projection == i).tolist())))
    share = neurons / neurons.sum()
    if phase == stage.stage.state_phase:
        neurons = neurons + share * stage.stage.state
    return [
        _Sending(int(core), float(n * looking), tuple((active * float(part), targets) for active, targets in flows))
        for core, n, part in zip(sources, neurons, share, strict=True)
    ]


def _sources(stage: StageMap, where: Layout, phase: int) -> tuple[npt.NDArray[np.int64], Floats]:
    sources = np.flatnonzero(where.phase == max(phase - 1, 0))
    if phase == 0:
        return sources, np.full(len(sources), stage.stage.d_model / len(sources))
    return sources, where.neurons[sources]


def _active(projection: Projection, rng: np.random.Generator | None) -> float:
    """Inputs of a token that are not zero: their mean, or a draw from the projection's law."""
    if rng is None:
        return projection.density * projection.d_in
    share = projection.density if projection.law is None else float(projection.law.draw(1, rng)[0])
    return float(rng.binomial(projection.d_in, share))
