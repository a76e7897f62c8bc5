"""Replicas that fail and come back, and restarts that go round."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from sparsesim import units
from sparsesim.families import Frozen
from sparsesim.sim.log import Event
from sparsesim.sim.replica import TIE_S

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet
    from sparsesim.sim.replica import Replica

Process = Generator[Any, Any, None]


class Outage(Frozen):
    """One replica fails at a time.

    Attributes:
        replica: its number.
        at: when it fails.
        lasts: until it is back, empty; None: for ever.

    """

    replica: int = Field(ge=0)
    at: units.Seconds = Field(ge=0)
    lasts: units.Seconds | None = Field(None, gt=0)


class Faults(Frozen):
    """What goes wrong. Requests of a failed replica start again elsewhere with the tokens they had.

    Attributes:
        outages: failures at given times.
        mean_time_to_failure: of each replica, exponential; None: no random failures.
        mean_time_to_repair: exponential, too.
        restart_at: when a rolling restart begins: one replica after another drains, is away for `restart_lasts`,
            and comes back; None: no restart.
        restart_lasts: how long each is away.

    """

    outages: tuple[Outage, ...] = ()
    mean_time_to_failure: units.Seconds | None = Field(None, gt=0)
    mean_time_to_repair: units.Seconds = Field(600.0, gt=0)
    restart_at: units.Seconds | None = Field(None, ge=0)
    restart_lasts: units.Seconds = Field(60.0, gt=0)

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Faults:
        if not self.outages and self.mean_time_to_failure is None and self.restart_at is None:
            raise ValueError("nothing fails: name outages, mean_time_to_failure or restart_at")
        for beside, of in (("mean_time_to_repair", "mean_time_to_failure"), ("restart_lasts", "restart_at")):
            if beside in self.model_fields_set and getattr(self, of) is None:
                raise ValueError(f"{beside} has no effect without {of}")
        return self

    def start(self, fleet: Fleet, seed: int) -> None:
        """Set the processes going."""
        env = fleet.env
        for outage in self.outages:
            env.process(_outage(fleet, fleet.replicas[outage.replica], outage.at, outage.lasts))
        if self.mean_time_to_failure is not None:
            for replica, child in zip(
                fleet.replicas, np.random.SeedSequence(seed).spawn(len(fleet.replicas)), strict=True
            ):
                env.process(self._random(fleet, replica, np.random.default_rng(child), self.mean_time_to_failure))
        if self.restart_at is not None:
            env.process(self._restart(fleet, self.restart_at))

    def _random(self, fleet: Fleet, replica: Replica, random: np.random.Generator, mean_s: float) -> Process:
        while True:
            yield from _outage(
                fleet,
                replica,
                random.exponential(mean_s),
                random.exponential(self.mean_time_to_repair),
            )

    def _restart(self, fleet: Fleet, at_s: float) -> Process:
        env = fleet.env
        yield env.timeout(at_s)
        for replica in list(fleet.replicas):
            if not replica.alive:
                continue
            fleet.events.add(env.now, Event.replica_draining, replica.index)
            replica.pool.take_down(replica)
            yield from drained(fleet, replica)
            if put_out(fleet, replica):
                yield env.timeout(self.restart_lasts)
                _back(fleet, replica)


def drained(fleet: Fleet, replica: Replica) -> Process:
    """Wait until a replica that takes no more requests has none left, nor KV that is still on its way.

    It ends, too, where the replica fails meanwhile and is back.
    """
    env = fleet.env
    while replica.held and replica not in replica.pool.up:
        if replica.pending is None:  # nothing is computed: what it waits for comes or goes as KV
            yield fleet.landing()
        else:
            yield env.timeout(max(replica.end - env.now, 0.0) + 2 * TIE_S)


def put_out(fleet: Fleet, replica: Replica) -> bool:
    """A drained replica goes down, if it has not failed meanwhile; whether it does."""
    if not replica.alive or replica in replica.pool.up:
        return False
    fleet.events.add(fleet.env.now, Event.replica_down, replica.index)
    fleet.close_interval(replica, fleet.env.now)
    replica.alive = False
    return True


def _outage(fleet: Fleet, replica: Replica, after_s: float, lasts_s: float | None) -> Process:
    env = fleet.env
    yield env.timeout(after_s)
    if not replica.alive:
        return
    replica.alive = False
    fleet.events.add(env.now, Event.replica_failed, replica.index)
    fleet.close_interval(replica, env.now)
    replica.pool.fail(replica, env.now)
    if lasts_s is not None:
        yield env.timeout(lasts_s)
        _back(fleet, replica)


def _back(fleet: Fleet, replica: Replica) -> None:
    now_s = fleet.env.now
    replica.alive = True
    fleet.events.add(now_s, Event.replica_up, replica.index)
    fleet.open_interval(replica, now_s)
    replica.pool.raise_up(replica, now_s)
