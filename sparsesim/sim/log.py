"""Growing typed columns that a run writes into: cheap to append to, read as NumPy without a copy."""

from __future__ import annotations

from array import array
from enum import IntEnum
from struct import Struct

import numpy as np
import numpy.typing as npt

STEP_ROW = np.dtype(
    [
        ("replica", "<u4"), ("start_s", "<f8"), ("first_s", "<f8"), ("slope_s", "<f8"), ("iterations", "<u4"),
        ("decode", "<u4"), ("context_tok", "<u8"), ("prefill_tok", "<u8"), ("chunks", "<u4"), ("output_tok", "<u8"),
        ("kv_blocks", "<i8"), ("running", "<u4"), ("waiting", "<u4"),
    ]
)  # fmt: skip
PACK_ROW = Struct("<IdddIIQQIQqII").pack  # the same layout; three times as fast as an array's extend


class Event(IntEnum):
    """What else is recorded besides requests and steps."""

    preempted = 0  # a running request lost its place, or its replica
    resumed = 1  # a preempted request got its next token, or its KV came back from host memory
    replica_starting = 2
    replica_up = 3
    replica_draining = 4
    replica_down = 5
    replica_failed = 6
    transferred = 7  # a request whose KV was moved joined the batch of its decode replica
    rerouted = 8  # a request was sent to another replica because its own failed


class StepLog:
    """A row per leap or step; those with chunks have their energies in `energies`, in order, others in the curves.

    Attributes:
        write: appends one packed row.
        energy: appends the joules by component of a row with chunks.
        explicit: replicas whose rows have every channel in `windows`, full attention too: context grows unevenly.
        window: appends (tokens attended, sequences growing) for each finite window of a row.

    """

    __slots__ = ("energies", "energy", "explicit", "rows", "window", "windows", "write")

    def __init__(self) -> None:
        self.rows = bytearray()
        self.explicit: set[int] = set()
        self.energies = array("d")
        self.windows = array("d")
        self.write = self.rows.extend
        self.energy = self.energies.extend
        self.window = self.windows.extend

    def table(self) -> npt.NDArray[np.void]:
        """All rows."""
        return np.frombuffer(bytes(self.rows), dtype=STEP_ROW)

    def coordinates(self, count: int) -> npt.NDArray[np.float64]:
        """(attended, growing) of the windows written, in order, [count, 2]; NaN after an interrupt."""
        cells = np.full(2 * count, np.nan)
        written = np.frombuffer(self.windows, dtype=np.float64)[: 2 * count]
        cells[: len(written)] = written
        return cells.reshape(count, 2)


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
