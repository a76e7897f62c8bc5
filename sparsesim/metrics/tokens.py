"""Inter-token latency in closed form: the gaps of a leap are a, a+b, ..., a+b*(m-1), never written out.

A row of the steps in which n requests decode for m iterations holds n*m gaps. The first iteration's gap
reaches back to the request's token before it: the end of the replica's decoding row before, or, for a
request that has joined since, its first token (or the token it got on resuming). A preempted request has
one more gap, over its pause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.metrics.columns import by_replica, floats, whole
from sparsesim.metrics.latency import PERCENTILES
from sparsesim.sim.log import Event
from sparsesim.sim.records import Columns, Records
from sparsesim.sim.steps import Floats

TIE_S = 1e-9
"""Times nearer than this are one, as in the simulation."""
HALVINGS = 60
"""Bisection to the last bits of a float64."""


@dataclass(frozen=True)
class Gaps:
    """Gaps first_s + slope_s*j, j = 0 .. count-1, each `weight` times; slopes are not negative."""

    weight: Floats
    first_s: Floats
    slope_s: Floats
    count: Floats

    @property
    def number(self) -> float:
        """How many gaps there are."""
        return float(self.weight @ self.count)

    @property
    def total_s(self) -> float:
        """Their sum."""
        m = self.count
        return float(self.weight @ (self.first_s * m + self.slope_s * m * (m - 1) / 2))

    def spread_s(self, mean_s: float) -> float:
        """Their standard deviation; a row's squares about the mean are m*a^2 + a*b*m(m-1) + b^2*m(m-1)(2m-1)/6."""
        a, b, m = self.first_s - mean_s, self.slope_s, self.count
        squares = float(self.weight @ (m * a**2 + a * b * m * (m - 1) + b**2 * m * (m - 1) * (2 * m - 1) / 6))
        return math.sqrt(max(squares, 0.0) / self.number)

    def below(self, limit_s: float) -> float:
        """How many gaps are at most `limit_s`."""
        rising = self.slope_s > self.first_s * np.finfo(float).eps  # a smaller slope adds up to nothing
        steps = np.divide(limit_s - self.first_s, self.slope_s, out=np.full(len(self.count), np.inf), where=rising)
        inside = np.where(limit_s >= self.first_s, np.clip(np.floor(steps) + 1.0, 0.0, self.count), 0.0)
        return float(self.weight @ inside)

    def quantile(self, share: float) -> float:
        """The smallest gap that at least `share` of all gaps do not exceed."""
        last = self.first_s + self.slope_s * (self.count - 1)
        low, high = 0.0, float(last.max())
        wanted = share * self.number * (1.0 - 1e-12)
        left, last_s = self, last
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if left.below(middle) >= wanted else (middle, high)
            under, open_ = last_s <= low, (last_s > low) & (left.first_s <= high)
            if 2 * int(open_.sum()) < len(last_s):  # rows wholly below or above need no further look
                wanted -= float(left.weight[under] @ left.count[under])
                left, last_s = left.rows(open_), last_s[open_]
        return high

    def rows(self, kept: npt.NDArray[np.bool_]) -> Gaps:
        """Some of the rows."""
        return Gaps(self.weight[kept], self.first_s[kept], self.slope_s[kept], self.count[kept])

    def distribution(self) -> dict[str, float | None]:
        """Mean, standard deviation, percentiles and maximum."""
        if self.number == 0:
            return dict.fromkeys(("mean", "std", *(f"p{p}" for p in PERCENTILES), "max"))
        named = {f"p{p}": self.quantile(p / 100) for p in PERCENTILES}
        mean = self.total_s / self.number
        return {
            "mean": mean,
            "std": self.spread_s(mean),
            **named,
            "max": self.quantile(1.0),
        }


def token_gaps(records: Records, from_s: float = 0.0) -> Gaps:
    """Every gap whose row starts at or after `from_s`."""
    parts = [_pauses(records, from_s)]
    decode = _decoding(records.steps)
    for replica, rows in by_replica(records.steps).items():
        parts += _gaps_of(records, replica, rows[decode[rows] > 0], decode, from_s)
    rows = np.concatenate(parts, axis=1)
    weight, first, slope, count = rows[:, (rows[0] > 0) & (rows[3] > 0)]
    falling = slope < 0
    first = np.where(falling, first + slope * (count - 1), first)
    return Gaps(weight, first, np.abs(slope), count)


def _decoding(steps: Columns) -> Floats:
    """Requests that get a token in each iteration of a row; a static batch also computes those that are done."""
    decode, made = floats(steps, "decode"), floats(steps, "output_tok")
    return np.where(
        floats(steps, "chunks") > 0, decode, np.minimum(decode, made / np.maximum(floats(steps, "iterations"), 1))
    )


def _gaps_of(
    records: Records, replica: int, rows: npt.NDArray[np.int64], decode: Floats, from_s: float
) -> list[Floats]:
    """Gaps of one replica's rows, each [4, rows]: of joiners, of others' first iterations, of later iterations."""
    steps = records.steps
    start, first, slope, m = (floats(steps, name)[rows] for name in ("start_s", "first_s", "slope_s", "iterations"))
    decode = decode[rows]
    joined, since = _joiners(records, replica)
    row = np.searchsorted(start, joined - TIE_S)
    inside = row < len(rows)
    row, since = row[inside], since[inside]
    old = np.maximum(decode - np.bincount(row, minlength=len(rows)), 0.0)
    before = np.concatenate([start[:1], floats(steps, "end_s")[rows][:-1]])
    ones = np.ones(len(rows))
    kept = start >= from_s
    joiners = np.stack(
        [kept[row].astype(float), start[row] - since + first[row], np.zeros(len(row)), np.ones(len(row))]
    )
    others = np.stack([old, first + (start - before), 0 * ones, ones])[:, kept]
    later = np.stack([decode, first + slope, slope, m - 1])[:, kept]
    return [joiners, others, later]


def _joiners(records: Records, replica: int) -> tuple[Floats, Floats]:
    """When requests began to decode on a replica, and when they got the token before.

    One that lost its place at the very boundary at which it got a token did not begin; nor did one that was done.
    """
    requests, events = records.requests, records.events
    first, finish = floats(requests, "first_token_s"), floats(requests, "finish_s")
    moved, moved_s = _events(events, Event.transferred, replica)
    here = (requests["replica"] == replica) & (whole(requests, "generated_tok") > 1) & np.isfinite(first)
    here[moved] = False
    here_rows = np.flatnonzero(here)
    resumed, resumed_s = _events(events, Event.resumed, replica)
    again = (resumed_s > first[resumed]) & (resumed_s != finish[resumed])
    request = np.concatenate([here_rows, moved, resumed[again]])
    joined = np.concatenate([first[here], moved_s, resumed_s[again]])
    since = np.concatenate([first[here], first[moved], resumed_s[again]])
    lost = set(zip(*(column.tolist() for column in _events(events, Event.preempted)), strict=True))
    began = [pair not in lost for pair in zip(request.tolist(), joined.tolist(), strict=True)]
    return joined[began], since[began]


def _pauses(records: Records, from_s: float) -> Floats:
    """Gaps over preemptions, [4, pauses]: from the last token before to the first token after."""
    lost, lost_s = _events(records.events, Event.preempted)
    resumed, resumed_s = _events(records.events, Event.resumed)
    first = floats(records.requests, "first_token_s")
    time_s, request = np.concatenate([lost_s, resumed_s]), np.concatenate([lost, resumed])
    back = np.arange(len(time_s)) >= len(lost)
    last_s: dict[int, float] = {}
    pauses = []
    for row in np.lexsort((~back, time_s)):
        one, now = int(request[row]), float(time_s[row])
        if back[row] and one in last_s:
            pauses.append((last_s.pop(one), now))
        elif not back[row] and now >= first[one]:
            last_s.setdefault(one, now)
    lengths = np.array([end - begin for begin, end in pauses if begin >= from_s])
    ones = np.ones(len(lengths))
    return np.stack([ones, lengths, 0 * ones, ones])


def _events(columns: Columns, event: Event, replica: int | None = None) -> tuple[npt.NDArray[np.int64], Floats]:
    """Requests and times of one kind of event."""
    rows = columns["event"] == event.name
    if replica is not None:
        rows = rows & (columns["replica"] == replica)
    return whole(columns, "request")[rows], floats(columns, "time_s")[rows]
