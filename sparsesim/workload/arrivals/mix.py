"""Several clients at once, each with its own arrivals, lengths and priority (SLO classes, tenants)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.families import Frozen
from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit
from sparsesim.workload.complete import complete
from sparsesim.workload.lengths.base import Lengths
from sparsesim.workload.requests import merged
from sparsesim.workload.streams import Streams


class Client(Frozen):
    """One stream of requests; a lower `priority` number is served first."""

    arrivals: Arrivals
    lengths: Lengths | None = None
    priority: int = 0
    name: str = ""


class Mix(Arrivals):
    """The clients' requests merged by arrival; `client` in the results counts them from 0."""

    clients: tuple[Client, ...] = Field(min_length=1)

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """Each client has streams of its own, so that adding one leaves the others' requests as they were.

        Raises:
            InputError: a client is a closed loop, which has no arrivals to merge by.

        """
        tables = []
        for number, client in enumerate(self.clients):
            own = _without_count(client.arrivals, limit)
            table = complete(client.arrivals, client.lengths, own, streams.child(number), folder)
            if table.concurrency is not None:
                raise InputError(Problem("a closed loop cannot be mixed", f"workload.arrivals.clients[{number}]"))
            tables.append(table.labelled(number, client.priority))
        table = merged(tables)
        table = table.take(range(len(table))[: limit.requests])
        return Arrived(table.arrival_s, recorded=table)

    def endless(self) -> bool:
        """Unless every client ends by itself."""
        return any(client.arrivals.endless() for client in self.clients)

    def problems(self, folder: Path | None) -> list[Problem]:
        """Those of all clients."""
        return [p for c in self.clients for part in (c.arrivals, c.lengths) if part for p in part.problems(folder)]


def _without_count(arrivals: Arrivals, limit: Limit) -> Limit:
    """A finite recording gives what it has: the count is that of the mix, not of each client."""
    return Limit(None, limit.duration_s) if arrivals.finite else limit
