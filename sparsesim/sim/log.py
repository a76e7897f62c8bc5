"""Growing typed columns that a run writes into: cheap to append to, read as NumPy without a copy."""

from __future__ import annotations

from array import array
from enum import IntEnum

import numpy as np
import numpy.typing as npt

STEP_COLUMNS = (
    "replica", "start_s", "first_s", "slope_s", "iterations", "decode", "context_tok", "prefill_tok", "chunks",
    "output_tok", "kv_blocks", "running", "waiting",
)  # fmt: skip


class Event(IntEnum):
    """What else is recorded besides requests and steps."""

    preempted = 0  # a running request lost its place
    resumed = 1  # a preempted request got its next token
    replica_starting = 2
    replica_up = 3
    replica_draining = 4
    replica_down = 5
    replica_failed = 6
    transferred = 7  # a request's KV arrived at its decode replica
    rerouted = 8  # a request was sent to another replica because its own failed


class StepLog:
    """A row per leap or step; those with chunks have their energies in `energies`, in order, others in the curves."""

    __slots__ = ("cells", "energies", "energy", "row", "width")

    def __init__(self, finite_windows: int) -> None:
        self.width = len(STEP_COLUMNS) + 2 * finite_windows
        self.cells = array("d")
        self.energies = array("d")
        self.row = self.cells.extend
        self.energy = self.energies.extend

    def table(self) -> npt.NDArray[np.float64]:
        """All rows, [rows, width]; an interrupted last row is left out."""
        whole = len(self.cells) // self.width * self.width
        return np.frombuffer(self.cells, dtype=np.float64)[:whole].reshape(-1, self.width)


class RequestLog:
    """A cell per request and column, written when it becomes known; NaN or -1 until then."""

    __slots__ = ("admitted", "cached", "finish", "first_token", "generated", "outcome", "preemptions", "replica")

    def __init__(self, requests: int) -> None:
        unknown = array("d", [np.nan]) * requests
        self.admitted = array("d", unknown)
        self.first_token = array("d", unknown)
        self.finish = array("d", unknown)
        self.replica = array("i", [-1]) * requests
        self.preemptions = array("i", [0]) * requests
        self.cached = array("i", [0]) * requests
        self.generated = array("i", [0]) * requests
        self.outcome = array("b", [0]) * requests


class EventLog:
    """Rare happenings: (time_s, event, replica, request)."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int, int]] = []

    def add(self, time_s: float, event: Event, replica: int, request: int = -1) -> None:
        """Append one."""
        self.rows.append((time_s, int(event), replica, request))
