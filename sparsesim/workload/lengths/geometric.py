"""Geometric lengths: memoryless, so that a single server of one request at a time is M/M/1."""

from __future__ import annotations

from pathlib import Path

from sparsesim.families import Frozen
from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.lengths.base import Drawn, Lengths
from sparsesim.workload.quantities import Length
from sparsesim.workload.streams import Streams


class Side(Frozen):
    """P(length = k) = (1 - 1/mean)^(k-1) / mean for k = 1, 2, ...; a mean of 1 tok is always 1."""

    mean: Length


class Geometric(Lengths):
    """Geometric prompts and outputs."""

    prompt: Side
    output: Side

    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """Independent sides."""
        del folder
        count = len(arrived.arrival_s)
        return Drawn(
            streams.rng("prompt").geometric(1.0 / self.prompt.mean, count),
            streams.rng("output").geometric(1.0 / self.output.mean, count),
        )
