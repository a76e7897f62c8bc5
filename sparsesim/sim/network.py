"""Fluid flows over shared links: max-min fair rates, solved again only when a flow starts or ends.

A flow is a vector of bytes on links (a whole collective, or one transfer) that drain together. With x the share of a
flow done per second, every link l obeys sum_f bytes[l, f] x_f <= capacity[l]. Fair is meant in bytes per second through
each flow's most loaded link: all rates rise together until a link is full or a flow reaches its own ceiling
(`least_s`: what its kernels take even alone), those flows keep their rate, and the others rise on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import simpy
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem

Floats = NDArray[np.float64]
_TOGETHER = 1e-9
"""Flows that would end within this share of the next end's delay end with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Bytes on every link, `[links]`; never faster than `least_s`; the first byte arrives after `latency_s`.

    `on_rate` is told the share done per second whenever it changes, and 0 at the end.
    """

    bytes: Floats
    least_s: float = 0.0
    latency_s: float = 0.0
    on_rate: Callable[[float], None] | None = None

    @property
    def busiest_bytes(self) -> float:
        """Bytes on the most loaded link."""
        return float(self.bytes.max(initial=0.0))

    def over(self, links: int) -> Flow:
        """The same flow on a network of more links, which it does not use."""
        more = links - len(self.bytes)
        return replace(self, bytes=np.pad(self.bytes, (0, more))) if more else self

    def alone_s(self, capacity: Floats) -> float:
        """Seconds without contention."""
        return self.latency_s + max(self.least_s, float((self.bytes / capacity).max(initial=0.0)))


def max_min_rates(share: Floats, capacity: Floats, ceiling: Floats) -> Floats:
    """Rates `[flows]` by progressive filling.

    `share[l, f]` is what flow f puts on link l per unit of rate, `capacity [links]`, `ceiling [flows]` (inf: none).
    """
    rate = np.zeros(len(ceiling))
    left = capacity.astype(np.float64)
    rising = np.ones(len(ceiling), dtype=bool)
    while rising.any():
        pressure = share[:, rising].sum(axis=1)
        room = np.divide(left, pressure, out=np.full(len(left), np.inf), where=pressure > 0)
        step = max(min(float(room.min(initial=np.inf)), float((ceiling - rate)[rising].min())), 0.0)
        rate[rising] += step
        left = np.maximum(left - step * pressure, 0.0)
        full = room <= step * (1.0 + 1e-12)
        rising &= ~((share[full] > 0).any(axis=0) | (rate >= ceiling * (1.0 - 1e-12)))
    return rate


@dataclass(slots=True, eq=False)
class _Active:
    flow: Flow
    done: simpy.Event
    left: float = 1.0
    rate: float = 0.0


@dataclass(eq=False)
class FluidNetwork:
    """Links that flows share, inside a simulation.

    `carried_bytes` counts what has passed every link; `solved` how often rates were computed.
    """

    env: simpy.Environment
    capacity_bytes_per_s: Floats
    carried_bytes: Floats = field(init=False)
    solved: int = field(init=False, default=0)
    _active: list[_Active] = field(init=False, default_factory=list)
    _moved_s: float = field(init=False, default=0.0)
    _version: int = field(init=False, default=0)
    _waiting: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Refuse links without bandwidth."""
        if not (self.capacity_bytes_per_s > 0).all():
            link = int(np.argmin(self.capacity_bytes_per_s))
            raise InputError(Problem(f"link {link} has no bandwidth", hint="a bandwidth above 0 B/s"))
        self.carried_bytes = np.zeros(len(self.capacity_bytes_per_s))

    def widen(self, capacity_bytes_per_s: Floats) -> None:
        """Add links behind those there are, at any time."""
        self.capacity_bytes_per_s = np.concatenate([self.capacity_bytes_per_s, capacity_bytes_per_s])
        self.carried_bytes = np.pad(self.carried_bytes, (0, len(capacity_bytes_per_s)))
        for active in self._active:
            active.flow = active.flow.over(len(self.capacity_bytes_per_s))

    def send(self, flow: Flow) -> simpy.Event:
        """Start a flow now; the event succeeds when it has arrived."""
        if flow.bytes.shape != self.capacity_bytes_per_s.shape:
            raise InputError(Problem(f"a flow over {flow.bytes.size} links on a network of {self.carried_bytes.size}"))
        done = self.env.event()
        if flow.latency_s > 0.0:
            self._after(flow.latency_s, lambda: self._enter(flow, done))
        else:
            self._enter(flow, done)
        return done

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        timer = self.env.timeout(delay_s)
        assert timer.callbacks is not None
        timer.callbacks.append(lambda _: action())

    def _enter(self, flow: Flow, done: simpy.Event) -> None:
        if flow.least_s <= 0.0 and flow.busiest_bytes <= 0.0:
            done.succeed()
            return
        self._advance()
        self._active.append(_Active(flow.over(len(self.capacity_bytes_per_s)), done))
        self._solve_soon()

    def _advance(self) -> None:
        """Move what is left of every flow to the present."""
        elapsed = self.env.now - self._moved_s
        self._moved_s = self.env.now
        for active in self._active:
            part = min(active.rate * elapsed, active.left)
            active.left -= part
            self.carried_bytes += part * active.flow.bytes

    def _solve_soon(self) -> None:
        """Solve once for everything that starts or ends at this instant."""
        if not self._waiting:
            self._waiting = True
            self._after(0.0, self._solve)

    def _solve(self) -> None:
        self._waiting = False
        self._version += 1
        if not self._active:
            return
        self.solved += 1
        for active, rate in zip(self._active, self._rates(), strict=True):
            if active.rate != rate and active.flow.on_rate is not None:
                active.flow.on_rate(rate)
            active.rate = rate
        delays = [active.left / active.rate for active in self._active]
        soonest = min(delays)
        ending = [a for a, delay in zip(self._active, delays, strict=True) if delay <= soonest * (1.0 + _TOGETHER)]
        version = self._version
        self._after(soonest, lambda: self._finish(version, ending))

    def _rates(self) -> list[float]:
        """Share of each flow done per second."""
        flows = [active.flow for active in self._active]
        if len(flows) == 1:
            return [1.0 / (flows[0].alone_s(self.capacity_bytes_per_s) - flows[0].latency_s)]
        size = np.array([flow.busiest_bytes or 1.0 for flow in flows])
        least = np.array([flow.least_s for flow in flows])
        ceiling = np.divide(size, least, out=np.full(len(flows), np.inf), where=least > 0)
        share = np.stack([flow.bytes for flow in flows], axis=1) / size
        used = share.any(axis=1)
        rates = max_min_rates(share[used], self.capacity_bytes_per_s[used], ceiling)
        return [float(rate) for rate in rates / size]

    def _finish(self, version: int, ending: list[_Active]) -> None:
        """End the flows the timer was set for: by intent, not by what rounding of late times leaves of them."""
        if version != self._version:
            return
        self._advance()
        self._active = [active for active in self._active if not any(active is end for end in ending)]
        for active in ending:
            self.carried_bytes += active.left * active.flow.bytes
            if active.flow.on_rate is not None:
                active.flow.on_rate(0.0)
            active.done.succeed()
        self._solve_soon()
