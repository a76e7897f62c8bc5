"""What every kind of arrivals answers, and the renewal processes most of them are.

A renewal process is written in operational time, in which requests come at rate 1: the gaps have mean 1 and
some spread, and the k-th request comes at the instant at which the expected number of arrivals reaches the
sum of the first k gaps. A constant rate divides by it; a varying rate inverts its integral.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.families import Member
from sparsesim.workload.requests import Floats, Ints, RequestTable
from sparsesim.workload.streams import Streams


@dataclass(frozen=True, slots=True)
class Limit:
    """How much is wanted: a number of requests, or all that arrive before `duration_s`, or both (whichever
    is less).
    """

    requests: int | None = None
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Arrived:
    """Arrivals in order, and what some kinds know beyond the instants.

    `recorded` holds lengths, clients and prefix blocks where the arrivals come with them (a trace, client
    mixes). `follows` and `think_s` as in `RequestTable`; `history` says that a turn's prompt repeats the
    turns before it.
    """

    arrival_s: Floats
    recorded: RequestTable | None = None
    follows: Ints | None = None
    think_s: Floats | None = None
    client: Ints | None = None
    concurrency: int | None = None
    history: bool = False


class Arrivals(Member, family="sparsesim.workload.arrivals"):
    """A law of arrivals."""

    finite: ClassVar[bool] = False
    """Whether the arrivals end by themselves (recordings do)."""

    @abstractmethod
    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """The arrivals within `limit`; `folder` is where relative file names start."""

    def endless(self) -> bool:
        """Whether a number of requests or a duration must be given."""
        return True

    def problems(self, folder: Path | None) -> list[Problem]:
        """What is wrong with this choice beyond its fields, found without drawing (a file that cannot be
        read ...).
        """
        del folder
        return []


class Renewal(Arrivals):
    """Arrivals whose gaps are independent in operational time."""

    @abstractmethod
    def gaps(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` gaps of mean 1."""

    @abstractmethod
    def instants(self, expected: Floats) -> Floats:
        """The seconds at which the expected number of arrivals since 0 s reaches each of `expected`
        (ascending).
        """

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """Gaps are drawn in runs until the limit is passed; the first k arrivals do not depend on the
        limit.
        """
        del folder
        need_limit(limit)
        return Arrived(self._until(limit, streams.rng("arrivals")))

    def _until(self, limit: Limit, rng: np.random.Generator) -> Floats:
        runs: list[Floats] = []
        drawn, expected = 0, 0.0
        most = math.inf if limit.requests is None else limit.requests
        while drawn < most and (not runs or runs[-1][-1] < limit.duration_s):
            gaps = self.gaps(rng, int(min(CHUNK, most - drawn)))
            gaps[0] += expected
            reached = np.cumsum(gaps)
            expected = float(reached[-1])
            runs.append(self.instants(reached))
            drawn += len(gaps)
        arrivals = np.concatenate(runs) if runs else np.zeros(0)
        return arrivals[arrivals < limit.duration_s]


NO_END = Problem("has no end", path="workload", hint="give 'requests: 20000' or 'duration: 10 min'")
CHUNK = 4096
"""Gaps drawn at a time: the bound on how far a duration is overshot."""


def need_limit(limit: Limit) -> None:
    """Refuse a workload without an end.

    Raises:
        InputError: neither a number of requests nor a duration is given.

    """
    if limit.requests is None and math.isinf(limit.duration_s):
        raise InputError(NO_END)
