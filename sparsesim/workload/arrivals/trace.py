"""Arrivals as they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit
from sparsesim.workload.quantities import Instant
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams
from sparsesim.workload.traces.base import TraceFormat, read_trace


class Trace(Arrivals):
    """Replay of a file: at `speed` times the recorded pace, from `start` in the recording on.

    `format` is told from the file where it is not given. Lengths come from the same rows unless the
    workload says otherwise. Without `requests` and `duration` the whole trace is replayed.
    """

    finite: ClassVar[bool] = True
    file: str
    speed: Annotated[float, Field(gt=0)] = 1.0
    start: Instant = 0.0
    format: TraceFormat | None = None

    def recorded(self, folder: Path | None) -> RequestTable:
        """The rows from `start` on, with arrivals in seconds of the replay."""
        table = read_trace(self.file, self.format, folder)
        table = table.take(np.flatnonzero(table.arrival_s >= self.start))
        columns = {"client": table.client, "priority": table.priority, "prefix_blocks": table.prefix_blocks}
        arrival_s = (table.arrival_s - self.start) / self.speed
        return RequestTable.of(arrival_s, table.prompt_tok, table.output_tok, **columns)

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """The first rows within the limit.

        Raises:
            InputError: the file is malformed, or holds fewer requests than are asked for.

        """
        del streams
        table = self.recorded(folder)
        table = table.take(np.flatnonzero(table.arrival_s < limit.duration_s))
        if limit.requests is not None and len(table) < limit.requests:
            text = f"{self.file} holds {len(table)} requests there, fewer than the {limit.requests} asked for"
            raise InputError(Problem(text, path="workload.requests", hint="leave 'requests' out to replay them all"))
        table = table.take(np.arange(len(table))[: limit.requests])
        return Arrived(table.arrival_s, recorded=table)

    def endless(self) -> bool:
        """A recording ends."""
        return False

    def problems(self, folder: Path | None) -> list[Problem]:
        """Whatever is wrong with the file."""
        try:
            read_trace(self.file, self.format, folder)
        except InputError as error:
            return list(error.problems)
        return []
