"""Moving a request's KV from the replica that prefilled it to the one that decodes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pydantic import Field
from simpy.events import Timeout

from sparsesim import units
from sparsesim.families import Frozen

if TYPE_CHECKING:
    from simpy import Environment


class Transfer(Protocol):
    """How KV travels."""

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens` between two replicas, and call `done` with the time at which it has arrived."""


Done = Callable[[float], None]


class PointToPoint(Frozen):
    """Every transfer has a link of its own: latency + bytes / bandwidth, without contention.

    Attributes:
        latency: of one transfer.
        bandwidth: of one transfer; None: it takes no time beyond the latency.
        bytes_per_token: of KV, over all layers and ranks of the replica.

    """

    latency: units.Seconds = Field(0.0, ge=0)
    bandwidth: units.BytesPerSecond | None = Field(None, gt=0)
    bytes_per_token: units.Bytes = Field(0.0, ge=0)

    def time_s(self, tokens: int) -> float:
        """Seconds that `tokens` take."""
        return self.latency + (tokens * self.bytes_per_token / self.bandwidth if self.bandwidth else 0.0)

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens`; source and target do not matter here."""
        del source, target
        arrived_s = now_s + self.time_s(tokens)
        event = Timeout(env, max(arrived_s - env.now, 0.0))
        event.callbacks.append(lambda _: done(arrived_s))
