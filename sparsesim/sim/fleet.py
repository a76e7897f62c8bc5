"""The replicas behind a router, and the requests on their way to them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from simpy import Environment
from simpy.events import URGENT, Timeout
from simpy.events import Event as SimPyEvent

from sparsesim.sim.admission import Admission
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.log import EventLog, RequestLog, StepLog
from sparsesim.sim.pool import Pool, PoolSpec
from sparsesim.sim.replica import Boundary, Replica
from sparsesim.sim.request import Job, Outcome
from sparsesim.sim.speculation import Speculation
from sparsesim.sim.transfer import Transfer
from sparsesim.workload.requests import RequestTable

if TYPE_CHECKING:
    from sparsesim.sim.prefilling import PrefillReplica

Progress = Callable[[int, int, float], None]
FINISHED = int(Outcome.finished)
PROGRESS_EVERY = 1024  # requests between two calls of a progress callback


class Fleet:
    """Run-time state of a deployment: its pools, the logs, and what each ended request sets off.

    Attributes:
        entry: the pool that requests come to.
        scaled: pools whose replicas come and go, with the rules by which they do.
        decode: the pool that takes over after the prefill, where there is one.
        intervals: (replica, from, to) in which replicas drew power; `to` is NaN while it lasts.

    """

    def __init__(
        self,
        requests: RequestTable,
        entry: PoolSpec,
        decode: PoolSpec | None = None,
        transfer: Transfer | None = None,
        admission: Admission | None = None,
        progress: Progress | None = None,
        seed: int = 0,
    ) -> None:
        self.env = Environment()
        self.table, self.progress, self.transfer, self.seed = requests, progress, transfer, seed
        self.steps = StepLog()
        self.log = RequestLog(len(requests))
        self.outcome, self.generated, self.finish = self.log.outcome, self.log.generated, self.log.finish
        self.events = EventLog()
        self._verify_steps: list[int] | None = None
        self._landing: SimPyEvent | None = None
        self.scaled: list[tuple[Autoscale, Pool]] = []
        self.replicas: list[Replica] = []
        self.hashes = whole_blocks(requests)
        self.arrived = array("d", [math.nan]) * len(requests)
        self.left = len(requests)
        self.done = self.env.event()
        self.entry = Pool(self, entry, "prefill" if decode else "serve", admission)
        self.decode = Pool(self, decode, "decode") if decode else None
        self.intervals = [(replica.index, 0.0, math.nan) for replica in self.replicas]
        self.refused = self._refused()
        self.feed = feed(self)
        self.dispatch = self.entry.dispatch
        if not self.left:
            self.stop()

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pool that does everything, or those of prefill and of decode."""
        return (self.entry,) if self.decode is None else (self.entry, self.decode)

    def _refused(self) -> list[int] | None:
        """The outcome of requests that one of the pools could never serve."""
        found = [refusals(self.table, pool.replicas) for pool in self.pools]
        lists = [one for one in found if one is not None]
        return [max(outcomes) for outcomes in zip(*lists, strict=True)] if lists else None

    def arrive(self, row: int, now_s: float) -> None:
        """A request comes in from outside."""
        feed = self.feed
        job = Job(row, feed.prompt[row], feed.output[row], feed.priority[row], now_s)
        self.arrived[row] = now_s
        if self.hashes is not None:
            job.hashes = self.hashes(job)
        refused = self.refused
        if refused is not None and (outcome := refused[row]):
            self.ended(job, outcome, now_s)
            return
        self.dispatch(job, now_s)

    def hand_on(self, job: Job, source: PrefillReplica, now_s: float) -> None:
        """Move a prefilled request to a decode replica; it keeps its blocks until it has arrived."""
        assert self.decode is not None
        assert self.transfer is not None
        pool = self.decode
        target = pool.pick(job, now_s)
        if target is None:  # no decode replica is up: it will be prefilled again where it then goes
            source.sent(job, now_s)
            job.restart()
            return

        def arrived(at_s: float) -> None:
            source.sent(job, at_s)
            target.arrived()
            job.computed = job.target
            if target.alive:  # even if it takes no other requests any more
                self.log.replica[job.row] = target.index
                target.submit(job, at_s)
            else:
                job.restart()
                pool.dispatch(job, at_s)
            landed, self._landing = self._landing, None
            if landed is not None:
                landed.succeed()

        target.expect()

        self.transfer.send(self.env, source.index, target.index, job.target, now_s, arrived)

    def landing(self) -> SimPyEvent:
        """The next arrival of KV anywhere."""
        self._landing = self._landing or self.env.event()
        return self._landing

    def verify_steps(self, law: Speculation) -> list[int]:
        """Verify steps of each request, the same for whichever replica serves it."""
        if self._verify_steps is None:
            self._verify_steps = law.verify_steps(self.table.output_tok, self.seed).tolist()
        return self._verify_steps

    def open_interval(self, replica: Replica, now_s: float) -> None:
        """The replica draws power from now on."""
        self.intervals.append((replica.index, now_s, math.nan))

    def close_interval(self, replica: Replica, now_s: float) -> None:
        """The replica draws no power any more."""
        place = max(i for i, (index, _, _) in enumerate(self.intervals) if index == replica.index)
        self.intervals[place] = (replica.index, self.intervals[place][1], now_s)

    def finished(self, job: Job, now_s: float) -> None:
        """A request has all its tokens."""
        self.finish[job.row] = now_s
        self.ended(job, FINISHED, now_s)

    def ended(self, job: Job, outcome: int, now_s: float) -> None:
        """A request is over, one way or another."""
        row = job.row
        self.outcome[row] = outcome
        self.generated[row] = job.generated
        self.left -= 1
        if self.feed.reacts:
            self.feed.after(row, now_s)
        if not self.left:
            self.stop()
        elif self.progress is not None and self.left % PROGRESS_EVERY == 0:
            self.progress(len(self.table) - self.left, len(self.table), now_s)

    def abandon(self) -> None:
        """Nothing can happen any more: requests without a replica that could take them have failed."""
        for pool in self.pools:
            for job in pool.stranded:
                self.outcome[job.row] = Outcome.failed

    def stop(self) -> None:
        """End the run with the events of this moment."""
        if not self.done.triggered:
            self.done.succeed()


def whole_blocks(requests: RequestTable) -> Callable[[Job], tuple[int, ...]] | None:
    """Where prompts have block ids: a function from a request to those of its full blocks."""
    blocks = requests.prefix_blocks
    if blocks is None:
        return None
    ids: list[int] = blocks.ids.tolist()
    offsets: list[int] = blocks.offsets.tolist()
    block_tok = blocks.block_tok
    return lambda job: tuple(
        ids[offsets[job.row] : min(offsets[job.row + 1], offsets[job.row] + job.prompt // block_tok)]
    )


def refusals(requests: RequestTable, replicas: Sequence[Replica]) -> list[int] | None:
    """Per request the outcome if no replica could ever serve it, else 0; None where every replica can serve all."""
    # the checks grow with either length: if the longest of both passes, all do
    longest = Job(0, int(requests.prompt_tok.max(initial=1)), int(requests.output_tok.max(initial=1)), 0, 0.0)
    if all(replica.refusal(longest) is None for replica in replicas):
        return None
    distinct = {id(replica.spec): replica for replica in replicas}.values()
    outcomes = []
    for row, (prompt, output) in enumerate(
        zip(requests.prompt_tok.tolist(), requests.output_tok.tolist(), strict=True)
    ):
        found = [replica.refusal(Job(row, prompt, output, 0, 0.0)) for replica in distinct]
        outcomes.append(0 if None in found else int(found[0] or 0))
    return outcomes


class Feed:
    """When requests come: as recorded, after their predecessor, or one for each that ends."""

    def __init__(self, fleet: Fleet) -> None:
        table = fleet.table
        self.fleet, self.env = fleet, fleet.env
        self.prompt: list[int] = table.prompt_tok.tolist()
        self.output: list[int] = table.output_tok.tolist()
        self.priority: list[int] = table.priority.tolist()
        self.think: list[float] = table.think_s.tolist()
        self.reacts = table.concurrency is not None or bool((table.follows >= 0).any())
        self.followers: dict[int, list[int]] = {}
        self.next = 0

    def source(self, rows: npt.NDArray[np.int64]) -> None:
        """Deliver rows at their arrival times, one pending event at a time, before anything else of that time."""
        times: list[float] = [*self.fleet.table.arrival_s[rows].tolist(), math.inf]
        order: list[int] = rows.tolist()
        env, arrive = self.env, self.fleet.arrive
        event = Boundary(env)
        place = 0

        def deliver(_: SimPyEvent) -> None:
            nonlocal place
            now_s = times[place]
            while times[place] == now_s:
                place += 1
                arrive(order[place - 1], now_s)
            wait()

        callbacks: list[Callable[[SimPyEvent], None]] = [deliver]

        def wait() -> None:
            if times[place] < math.inf:
                event.callbacks = callbacks
                delay = times[place] - env.now
                env.schedule(event, URGENT, delay if delay > 0.0 else 0.0)

        wait()

    def later(self, row: int, time_s: float) -> None:
        """Deliver one row at a time that has just become known."""
        event = Timeout(self.env, max(time_s - self.env._now, 0.0))
        event.callbacks.append(lambda _: self.fleet.arrive(row, time_s))

    def after(self, row: int, now_s: float) -> None:
        """A request has ended: what follows it comes."""
        for follower in self.followers.pop(row, ()):
            self.later(follower, now_s + self.think[follower])
        if self.fleet.table.concurrency is not None and self.next < len(self.prompt):
            self.next += 1
            self.later(self.next - 1, now_s + self.think[self.next - 1])


def feed(fleet: Fleet) -> Feed:
    """The feed of a request table, its first arrivals scheduled."""
    table = fleet.table
    made = Feed(fleet)
    if table.concurrency is not None:
        made.next = min(table.concurrency, len(table))
        for row in range(made.next):
            made.later(row, 0.0)
        return made
    for row in np.flatnonzero(table.follows >= 0).tolist():
        made.followers.setdefault(int(table.follows[row]), []).append(row)
    made.source(np.flatnonzero(table.follows < 0))
    return made
