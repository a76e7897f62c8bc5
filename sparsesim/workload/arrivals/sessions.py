"""Conversations: users come, ask, read the answer, think, and ask again with all that was said before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit, need_limit
from sparsesim.workload.arrivals.poisson import Poisson
from sparsesim.workload.quantities import Rate, Think
from sparsesim.workload.requests import Floats, Ints
from sparsesim.workload.streams import Streams


class Sessions(Arrivals):
    """Sessions start as a Poisson process; each has a geometric number of turns of mean `turns`.

    A turn arrives `think` after the answer before it. With `history` its prompt repeats all earlier prompts
    and answers of the session before the drawn prompt length, which is then the length of the new question.
    """

    rate: Rate
    turns: Annotated[float, Field(ge=1)]
    think: Think
    history: bool = True

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """Turns sorted by the earliest instant they can come (answers in no time), cut at the limit."""
        need_limit(limit)
        starts = Poisson.model_construct(rate=self.rate).draw(limit, streams, folder).arrival_s
        turns = streams.rng("turns").geometric(1.0 / self.turns, len(starts)).astype(np.int64)
        first = np.concatenate(([0], np.cumsum(turns)[:-1])).astype(np.int64)
        think_s = self.think.sample(streams.rng("think"), int(turns.sum()))
        think_s[first] = 0.0
        earliest = np.repeat(starts, turns) + _since_first(think_s, first, turns)
        follows = np.arange(len(earliest), dtype=np.int64) - 1
        follows[first] = -1
        session = np.repeat(np.arange(len(starts), dtype=np.int64), turns)
        return _cut(earliest, follows, think_s, session, limit, self.history)


def _since_first(think_s: Floats, first: Ints, turns: Ints) -> Floats:
    """Sum of the pauses since the session's first turn."""
    total = np.cumsum(think_s)
    return np.asarray(total - np.repeat(total[first], turns))


def _cut(earliest: Floats, follows: Ints, think_s: Floats, session: Ints, limit: Limit, history: bool) -> Arrived:
    order = np.argsort(earliest, kind="stable")
    order = order[earliest[order] < limit.duration_s][: limit.requests]
    place = np.full(len(earliest) + 1, -1, np.int64)
    place[order] = np.arange(len(order))
    return Arrived(
        earliest[order],
        follows=place[follows[order]],
        think_s=think_s[order],
        client=session[order],
        history=history,
    )
