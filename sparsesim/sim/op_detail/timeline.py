"""What happened when: one row per rank, resource and op; written as a Chrome trace that Perfetto opens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LANES = ("compute", "memory", "link")
COMPUTE, MEMORY, LINK = range(3)


@dataclass(eq=False)
class Timeline:
    """Rows `(rank, lane, part, start_s, end_s, waited_s)`; waited is the part of a link row before its flow began."""

    ranks: int
    rows: list[tuple[int, int, str, float, float, float]] = field(default_factory=list)
    end_s: float = 0.0
    link_bytes: Floats = field(default_factory=lambda: np.zeros(0))

    def busy_s(self, lane: int) -> Floats:
        """Seconds that each rank's resource was in use, waiting left out, `[ranks]`."""
        busy = np.zeros(self.ranks)
        for rank, at, _, start, end, waited in self.rows:
            if at == lane:
                busy[rank] += end - start - waited
        return busy

    def waited_s(self) -> Floats:
        """Seconds that each rank waited for others before exchanges began, `[ranks]`."""
        waited = np.zeros(self.ranks)
        for rank, _, _, _, _, wait in self.rows:
            waited[rank] += wait
        return waited

    def energy_j(self, j_per_byte: Floats) -> float:
        """Joules of the links for what they carried."""
        return float(self.link_bytes @ j_per_byte)

    def chrome(self) -> dict[str, Any]:
        """Chrome trace events: a process per rank, a thread per resource, microseconds."""
        events: list[dict[str, Any]] = []
        for rank in range(self.ranks):
            events.append({"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}"}})
            events += [
                {"ph": "M", "pid": rank, "tid": lane, "name": "thread_name", "args": {"name": name}}
                for lane, name in enumerate(LANES)
            ]
        for rank, lane, part, start, end, waited in self.rows:
            event = {"ph": "X", "pid": rank, "tid": lane, "name": part, "ts": start * 1e6, "dur": (end - start) * 1e6}
            events.append(event | ({"args": {"waited_us": waited * 1e6}} if lane == LINK else {}))
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write(self, path: Path) -> None:
        """Write the Chrome trace."""
        path.write_text(json.dumps(self.chrome()), encoding="utf-8")
