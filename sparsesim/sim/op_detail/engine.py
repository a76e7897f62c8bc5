"""Ranks as SimPy processes: each runs its programs (streams) over its compute, its memory and the shared links."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import simpy
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem
from sparsesim.sim.network import Flow, FluidNetwork
from sparsesim.sim.op_detail.memory import Memory
from sparsesim.sim.op_detail.program import Exchange, Local, Program, checked_members
from sparsesim.sim.op_detail.timeline import COMPUTE, LINK, MEMORY, Timeline

Floats = NDArray[np.float64]
Process = Generator[simpy.Event, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Background traffic: a KV transfer, a pipeline message. `memory_bytes` by rank is read or written meanwhile."""

    part: str
    start_s: float
    flow: Flow
    memory_bytes: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Meeting:
    """One group at one exchange."""

    done: simpy.Event
    missing: int
    started_s: float = 0.0
    ended_s: float = 0.0


@dataclass(eq=False)
class _Engine:
    env: simpy.Environment
    ranks: int
    network: FluidNetwork
    memories: list[Memory]
    compute: list[simpy.Resource | None]
    timeline: Timeline
    meetings: dict[tuple[int, int, int], _Meeting] = field(default_factory=dict)
    finished: int = 0

    def rank(self, rank: int, stream: int, steps: Sequence[_Step]) -> Process:
        """One stream of one rank, from its first op to its last."""
        for index, step in enumerate(steps):
            if step.exchange is None:
                yield from self.local(rank, step.local)
            else:
                yield from self.exchange(rank, stream, index, step)
        self.finished += 1

    def local(self, rank: int, step: _LocalStep) -> Process:
        """One kernel: compute for itself (one stream at a time), memory shared with background transfers."""
        compute = self.compute[rank]
        if compute is None:
            yield from self.kernel(rank, step)
            return
        with compute.request() as turn:
            yield turn
            yield from self.kernel(rank, step)

    def kernel(self, rank: int, step: _LocalStep) -> Process:
        start, memory = self.env.now, self.memories[rank]
        size = float(step.memory_bytes[rank])
        if size > 0.0:
            yield memory.use(size, float(step.seconds[rank]))
            self.record(rank, MEMORY, step.part, start, min(start + size / memory.bytes_per_s, self.env.now))
        else:
            yield self.env.timeout(float(step.seconds[rank]))
        self.record(rank, COMPUTE, step.part, start, self.env.now)

    def exchange(self, rank: int, stream: int, index: int, step: _Step) -> Process:
        """Arrive, compute what may run behind, wait for the flow."""
        assert step.exchange is not None
        arrived = self.env.now
        meeting = self.arrive(stream, index, int(step.members[rank]), step)
        for inner in step.behind:
            yield from self.local(rank, inner)
        if not meeting.done.processed:
            yield meeting.done
        self.record(rank, LINK, step.exchange.part, arrived, meeting.ended_s, meeting.started_s - arrived)

    def arrive(self, stream: int, index: int, group: int, step: _Step) -> _Meeting:
        """Count a rank in; the last one of the group starts its flow."""
        key = (stream, index, group)
        if key not in self.meetings:
            self.meetings[key] = _Meeting(self.env.event(), int(step.sizes[group]))
        meeting = self.meetings[key]
        meeting.missing -= 1
        if meeting.missing == 0:
            del self.meetings[key]
            meeting.started_s = self.env.now
            assert step.exchange is not None
            self.env.process(self.carry(step.exchange.flows[group], meeting))
        return meeting

    def carry(self, flow: Flow, meeting: _Meeting) -> Process:
        """Run a flow to its end and tell everybody when that was."""
        yield self.network.send(flow)
        meeting.ended_s = self.env.now
        meeting.done.succeed()

    def background(self, transfer: Transfer) -> Process:
        """A transfer that no rank waits for; it takes memory bandwidth in step with its rate."""
        yield self.env.timeout(transfer.start_s)
        began, rate = self.env.now, 0.0

        def on_rate(now: float) -> None:
            nonlocal rate
            for rank, size in transfer.memory_bytes.items():
                self.memories[rank].reserve((now - rate) * size)
            rate = now

        yield self.network.send(replace(transfer.flow, on_rate=on_rate))
        for rank in transfer.memory_bytes:
            self.record(rank, LINK, transfer.part, began, self.env.now)

    def record(self, rank: int, lane: int, part: str, start_s: float, end_s: float, waited_s: float = 0.0) -> None:
        self.timeline.rows.append((rank, lane, part, start_s, end_s, waited_s))


@dataclass(frozen=True, slots=True, eq=False)
class _LocalStep:
    part: str
    seconds: Floats
    memory_bytes: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    local: _LocalStep
    exchange: Exchange | None
    behind: tuple[_LocalStep, ...]
    members: NDArray[np.int64]
    sizes: NDArray[np.int64]


def simulate_ops(
    programs: Sequence[Program],
    ranks: int,
    capacity_bytes_per_s: Floats,
    memory_bytes_per_s: float,
    background: Sequence[Transfer] = (),
    progress: Callable[[float], None] | None = None,
) -> Timeline:
    """Run every rank through the programs (one stream each, at the same time) and return what happened.

    Args:
        programs: one for a plain step; two for two-batch overlap.
        ranks: devices that run them.
        capacity_bytes_per_s: of every link, `[links]`, as in a `Network`.
        memory_bytes_per_s: of a device.
        background: transfers nobody waits for, which contend for links and memory.
        progress: told the share of streams that have finished.

    Raises:
        InputError: no ranks, negative times, an exchange without a flow for some group, or a link without bandwidth.

    """
    if ranks < 1 or not memory_bytes_per_s > 0:
        raise InputError(Problem(f"{ranks} ranks with memories of {memory_bytes_per_s} B/s: both must be above 0"))
    env = simpy.Environment()
    engine = _Engine(
        env,
        ranks,
        FluidNetwork(env, capacity_bytes_per_s),
        [Memory(env, memory_bytes_per_s) for _ in range(ranks)],
        [simpy.Resource(env) if len(programs) > 1 else None for _ in range(ranks)],
        Timeline(ranks),
    )
    compiled = [_compiled(steps, ranks) for steps in programs]
    streams = [env.process(engine.rank(r, s, steps)) for s, steps in enumerate(compiled) for r in range(ranks)]
    for transfer in background:
        env.process(engine.background(transfer))
    for stream in streams:
        env.run(stream)
        if progress is not None:
            progress(engine.finished / len(streams))
    engine.timeline.end_s = env.now
    engine.timeline.link_bytes = engine.network.carried_bytes
    return engine.timeline


def _compiled(steps: Program, ranks: int) -> list[_Step]:
    """Steps with everything by rank worked out once for equal ones."""
    distinct = {id(step): step for step in steps}
    known = {key: _step(step, ranks) for key, step in distinct.items()}
    return [known[id(step)] for step in steps]


def _step(step: Local | Exchange, ranks: int) -> _Step:
    none = np.zeros(0, dtype=np.int64)
    if isinstance(step, Local):
        return _Step(_local(step, ranks), None, (), none, none)
    members = checked_members(step, ranks)
    behind = tuple(_local(inner, ranks) for inner in step.behind)
    return _Step(_local(Local(step.part, 0.0), ranks), step, behind, members, np.bincount(members))


def _local(step: Local, ranks: int) -> _LocalStep:
    seconds = step.seconds(ranks)
    if (seconds < 0).any() or not np.isfinite(seconds).all():
        raise InputError(Problem(f"op {step.part!r} has a time of {seconds.min()} s", hint="0 s or more"))
    return _LocalStep(step.part, seconds, np.broadcast_to(np.asarray(step.memory_bytes, dtype=np.float64), (ranks,)))
