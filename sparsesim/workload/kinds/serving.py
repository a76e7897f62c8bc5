"""Requests that come and are served."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import PositiveInt

from sparsesim.errors import Problem
from sparsesim.workload.arrivals.base import NO_END, Arrivals, Limit
from sparsesim.workload.complete import complete
from sparsesim.workload.kinds.base import Workload
from sparsesim.workload.lengths.base import Lengths
from sparsesim.workload.quantities import Duration
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams


class Serving(Workload):
    """Arrivals with lengths, `requests` of them or as many as come within `duration`, whichever is less.

    Lengths may be left out where the arrivals come with them (a trace, client mixes).
    """

    arrivals: Arrivals
    lengths: Lengths | None = None
    requests: PositiveInt | None = None
    duration: Duration | None = None

    def table(self, streams: Streams, folder: Path | None) -> RequestTable:
        """The requests in order of arrival."""
        limit = Limit(self.requests, math.inf if self.duration is None else self.duration)
        return complete(self.arrivals, self.lengths, limit, streams, folder)

    def problems(self, folder: Path | None) -> list[Problem]:
        """Those of the arrivals and of the lengths, and a missing end."""
        found = self.arrivals.problems(folder)
        if self.requests is None and self.duration is None and self.arrivals.endless():
            found.append(NO_END)
        return found + (self.lengths.problems(folder) if self.lengths is not None else [])
