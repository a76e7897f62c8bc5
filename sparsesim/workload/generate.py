"""From a workload and a seed to the table of requests."""

from __future__ import annotations

from pathlib import Path

from sparsesim.workload.kinds.base import Workload
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams


def generate(workload: Workload, seed: int, replication: int = 0, folder: Path | None = None) -> RequestTable:
    """The requests of one replication, the same for the same arguments bit for bit.

    Arrivals, prompts, outputs, pauses each have a stream of their own (`streams.py`). Relative file names
    start at `folder`, then at the current folder, then at the traces that ship.

    Raises:
        InputError: a trace is missing, malformed or too short; the workload has no end.

    """
    return workload.table(Streams(seed, (replication,)), folder)
