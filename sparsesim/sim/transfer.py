"""Moving a request's KV from the replica that prefilled it to the one that decodes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from simpy.events import Timeout

if TYPE_CHECKING:
    from simpy import Environment


class Transfer(Protocol):
    """How KV travels."""

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens` between two replicas, and call `done` with the time at which it has arrived."""


Done = Callable[[float], None]


@dataclass(frozen=True)
class PointToPoint:
    """Every transfer has a link of its own: latency + bytes / bandwidth, without contention.

    Attributes:
        latency_s: of one transfer.
        bytes_per_s: of one transfer; inf: it takes no time beyond the latency.
        bytes_per_tok: of KV, over all layers and ranks of the replica.

    """

    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    bytes_per_tok: float = 0.0

    def time_s(self, tokens: int) -> float:
        """Seconds that `tokens` take."""
        return self.latency_s + tokens * self.bytes_per_tok / self.bytes_per_s

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens`; source and target do not matter here."""
        del source, target
        arrived_s = now_s + self.time_s(tokens)
        event = Timeout(env, max(arrived_s - env.now, 0.0))
        event.callbacks.append(lambda _: done(arrived_s))
