"""Replicas that come and go with the load."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from sparsesim import units
from sparsesim.families import Frozen
from sparsesim.sim.faults import drained, put_out
from sparsesim.sim.log import Event

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet
    from sparsesim.sim.pool import Pool

Process = Generator[Any, Any, None]


class Autoscale(Frozen):
    """Keep the outstanding requests per replica near a target, as horizontal autoscalers do.

    Wanted are ceil(outstanding / target) replicas, between the least and the most. A new one draws power from the
    decision on and serves after `start_up`; one too many for `patience` drains and goes. Of pools each has its own
    rules and counts its own requests: KV on its way to a replica counts there, and a replica drains until what leaves
    it or comes to it has arrived.

    Attributes:
        least, most: replicas of the pool.
        target: outstanding requests per replica.
        interval: between two looks at the load.
        start_up: from the decision until a new replica serves: load the weights, warm up.
        patience: how long fewer replicas must have sufficed before one is let go.

    """

    least: int = Field(1, ge=1)
    most: int = Field(ge=1)
    target: float = Field(gt=0)
    interval: units.Seconds = Field(10.0, gt=0)
    start_up: units.Seconds = Field(60.0, ge=0)
    patience: units.Seconds = Field(120.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Autoscale:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}")
        return self

    def start(self, fleet: Fleet, pool: Pool) -> None:
        """Watch a pool."""
        fleet.scaled.append((self, pool))
        fleet.env.process(self._watch(fleet, pool))

    def wanted(self, pool: Pool) -> int:
        """Replicas that the load asks for."""
        outstanding = sum(replica.outstanding for replica in pool.up) + len(pool.stranded)
        return min(max(math.ceil(outstanding / self.target), self.least), self.most)

    def _watch(self, fleet: Fleet, pool: Pool) -> Process:
        env = fleet.env
        starting: list[object] = []
        enough_since_s = env.now
        yield env.timeout(self.interval)
        while not _settled(fleet):
            wanted, have = self.wanted(pool), len(pool.up) + len(starting)
            if wanted >= have:
                enough_since_s = env.now
            for _ in range(wanted - have):
                env.process(self._raise(fleet, pool, starting))
            if wanted < have and not starting and env.now - enough_since_s >= self.patience and len(pool.up) > 1:
                env.process(self._drain(fleet, pool))
                enough_since_s = env.now
            yield env.timeout(self.interval)

    def _raise(self, fleet: Fleet, pool: Pool, starting: list[object]) -> Process:
        env, mark = fleet.env, object()
        starting.append(mark)
        replica = pool.add(pool.spec.replicas[0])
        fleet.events.add(env.now, Event.replica_starting, replica.index)
        fleet.open_interval(replica, env.now)
        yield env.timeout(self.start_up)
        starting.remove(mark)
        fleet.events.add(env.now, Event.replica_up, replica.index)
        pool.raise_up(replica, env.now)

    def _drain(self, fleet: Fleet, pool: Pool) -> Process:
        replica = pool.up[-1]
        pool.take_down(replica)
        fleet.events.add(fleet.env.now, Event.replica_draining, replica.index)
        yield from drained(fleet, replica)
        put_out(fleet, replica)


def _settled(fleet: Fleet) -> bool:
    """Whether nothing is left but looks at the load, none of which finds a replica too few: what waits, waits for ever.

    A process that raises a replica, a step, a transfer, a request to come: each has an event of its own.
    """
    others = len(fleet.scaled) - 1
    return len(fleet.env._queue) <= others and all(scale.wanted(pool) <= len(pool.up) for scale, pool in fleet.scaled)
