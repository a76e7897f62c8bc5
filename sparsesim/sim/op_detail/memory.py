"""A rank's device memory: kernels read it at their pace, background transfers take their share first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import simpy


@dataclass(slots=True, eq=False)
class _Use:
    bytes: float
    least_s: float
    done: simpy.Event
    left: float = 1.0
    rate: float = 0.0
    since_s: float = 0.0
    version: int = 0


@dataclass(slots=True, eq=False)
class Memory:
    """Bandwidth of one device. Without background traffic a kernel costs one event."""

    env: simpy.Environment
    bytes_per_s: float
    background_bytes_per_s: float = 0.0
    _uses: list[_Use] = field(default_factory=list)

    def use(self, size_bytes: float, least_s: float) -> simpy.Event:
        """A kernel of `least_s` seconds that moves `size_bytes`; the event succeeds at its end."""
        done = self.env.event()
        use = _Use(size_bytes, least_s, done, since_s=self.env.now)
        self._uses.append(use)
        self._schedule(use)
        return done

    def reserve(self, change_bytes_per_s: float) -> None:
        """Add to (or take from) what background transfers use; kernels under way slow down or recover."""
        self.background_bytes_per_s = max(self.background_bytes_per_s + change_bytes_per_s, 0.0)
        for use in self._uses:
            use.left -= use.rate * (self.env.now - use.since_s)
            use.since_s = self.env.now
            self._schedule(use)

    def _schedule(self, use: _Use) -> None:
        free = max(self.bytes_per_s - self.background_bytes_per_s, 1e-3 * self.bytes_per_s)
        whole_s = max(use.least_s, use.bytes / free)
        use.version += 1
        use.rate = 1.0 / whole_s if whole_s > 0 else 0.0
        timer = self.env.timeout(max(use.left, 0.0) * whole_s)
        assert timer.callbacks is not None
        timer.callbacks.append(self._ender(use, use.version))

    def _ender(self, use: _Use, version: int) -> Callable[[simpy.Event], None]:
        def end(_: simpy.Event) -> None:
            if version == use.version:
                self._uses.remove(use)
                use.done.succeed()

        return end
