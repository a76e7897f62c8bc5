"""Moving a request's KV from the replica that prefilled it to the one that decodes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from simpy.events import Timeout

from sparsesim.sim.network import Flow, FluidNetwork

if TYPE_CHECKING:
    from simpy import Environment


class Transfer(Protocol):
    """How KV travels."""

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens` between two replicas, and call `done` with the time at which it has arrived."""


Done = Callable[[float], None]
Windowed = Sequence[tuple[float, float]]


def within(windowed: Windowed, tokens: int) -> float:
    """Bytes of the layers that keep no more than a window."""
    return sum(min(tokens, window) * size for window, size in windowed)


@dataclass(frozen=True)
class PointToPoint:
    """Every transfer has a link of its own: latency + bytes / bandwidth, without contention.

    Attributes:
        latency_s: of one transfer.
        bytes_per_s: of one transfer; inf: it takes no time beyond the latency.
        bytes_per_tok: of KV, over all layers of unlimited attention and ranks of the replica.
        windowed: (window, bytes per token) of the layers that keep a window.
        state_bytes: of a sequence's fixed-size state.

    """

    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    bytes_per_tok: float = 0.0
    windowed: Windowed = ()
    state_bytes: float = 0.0

    def time_s(self, tokens: int) -> float:
        """Seconds that `tokens` take."""
        size = tokens * self.bytes_per_tok + within(self.windowed, tokens) + self.state_bytes
        return self.latency_s + size / self.bytes_per_s

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens`; source and target do not matter here."""
        del source, target
        arrived_s = now_s + self.time_s(tokens)
        event = Timeout(env, max(arrived_s - env.now, 0.0))
        event.callbacks.append(lambda _: done(arrived_s))


@dataclass
class SharedLinks:
    """Transfers share the replicas' network cards, and perhaps a trunk between the pools: max-min fair fluid flows.

    A replica's cards are two links, added when it first sends or takes in: replicas may come at any time.

    Attributes:
        out_bytes_per_s: what a replica can send, over all its cards.
        in_bytes_per_s: what a replica can take in.
        trunk_bytes_per_s: what can pass between the pools at once.
        latency_s: before the first byte arrives.
        bytes_per_tok: of KV, over all layers of unlimited attention and ranks of the replica.
        windowed: (window, bytes per token) of the layers that keep a window.
        state_bytes: of a sequence's fixed-size state.

    """

    out_bytes_per_s: float
    in_bytes_per_s: float
    trunk_bytes_per_s: float = math.inf
    latency_s: float = 0.0
    bytes_per_tok: float = 0.0
    windowed: Windowed = ()
    state_bytes: float = 0.0
    _network: FluidNetwork | None = field(init=False, default=None, repr=False)

    def send(self, env: Environment, source: int, target: int, tokens: int, now_s: float, done: Done) -> None:
        """Move the KV of `tokens` beside whatever else is moving."""
        del now_s
        network = self._linked(env, max(source, target) + 1)
        load = np.zeros(len(network.capacity_bytes_per_s))
        load[[0, 2 * source + 1, 2 * target + 2]] = (
            tokens * self.bytes_per_tok + within(self.windowed, tokens) + self.state_bytes
        )
        event = network.send(Flow(load, latency_s=self.latency_s))
        event.callbacks.append(lambda _: done(env.now))

    def _linked(self, env: Environment, replicas: int) -> FluidNetwork:
        """The network of this run: the trunk, then two links for each of so many replicas at least."""
        network = self._network
        if network is None or network.env is not env:
            network = self._network = FluidNetwork(env, np.array([self.trunk_bytes_per_s]))
        missing = replicas - (len(network.capacity_bytes_per_s) - 1) // 2
        if missing > 0:
            network.widen(np.array([self.out_bytes_per_s, self.in_bytes_per_s] * missing))
        return network
