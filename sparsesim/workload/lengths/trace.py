"""Lengths as they were recorded, prompt and output of one request together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.lengths.base import Drawn, Lengths
from sparsesim.workload.requests import Ints
from sparsesim.workload.streams import Streams
from sparsesim.workload.traces.base import TraceFormat, read_trace


class Trace(Lengths):
    """Rows of `file`, or without one the rows the arrivals came with.

    `order: recorded` takes rows in turn (from the first again after the last), `order: sampled` draws them.
    """

    file: str | None = None
    order: Literal["recorded", "sampled"] = "recorded"
    format: TraceFormat | None = None

    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """Pairs of lengths, and the prefix blocks of the same rows.

        Raises:
            InputError: no file is given and the arrivals come without lengths; or the file is malformed.

        """
        count = len(arrived.arrival_s)
        table = arrived.recorded if self.file is None else read_trace(self.file, self.format, folder)
        if table is None:
            hint = "give 'lengths: {kind: trace, file: ...}' or another kind of lengths"
            raise InputError(Problem("these arrivals come without lengths", "workload.lengths", hint=hint))
        rows: Ints = np.arange(count, dtype=np.int64) % len(table)
        if self.order == "sampled":
            rows = streams.rng("rows").integers(len(table), size=count)
        blocks = table.prefix_blocks.take(rows) if table.prefix_blocks is not None else None
        return Drawn(table.prompt_tok[rows], table.output_tok[rows], blocks)

    def problems(self, folder: Path | None) -> list[Problem]:
        """Whatever is wrong with the file."""
        try:
            if self.file is not None:
                read_trace(self.file, self.format, folder)
        except InputError as error:
            return list(error.problems)
        return []
