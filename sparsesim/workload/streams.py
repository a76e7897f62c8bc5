"""Independent random streams by purpose, so that a change in one leaves the others' numbers as they were.

Two runs with the same seed see the same arrivals even where their lengths, schedulers or models differ
(common random numbers): the difference between them is then due to what was changed, not to luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PURPOSES = ("arrivals", "prompt", "output", "think", "turns", "rows")
"""The purposes in a fixed order: a new one is appended, so that older ones keep their numbers."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of one seed; `path` separates replications and clients."""

    seed: int
    path: tuple[int, ...] = (0,)

    def rng(self, purpose: str) -> np.random.Generator:
        """A fresh generator for one of `PURPOSES`; asked twice, it gives the same numbers twice."""
        key = (*self.path, PURPOSES.index(purpose))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))

    def child(self, number: int) -> Streams:
        """The streams of one client or replication."""
        return Streams(self.seed, (*self.path, number + len(PURPOSES)))
