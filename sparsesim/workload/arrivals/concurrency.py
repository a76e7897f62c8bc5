"""A closed loop: a fixed number of requests in flight, as benchmark clients with a maximum concurrency
keep.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from sparsesim.errors import InputError, Problem
from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit
from sparsesim.workload.quantities import Think
from sparsesim.workload.streams import Streams


class Concurrency(Arrivals):
    """`users` requests in flight; when one ends the next comes, after a pause where `think` is given."""

    users: PositiveInt
    think: Think = Think.model_validate({"mean": "0 s", "cv": 0})

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """All rows can come at 0 s at the earliest; the simulation releases them."""
        del folder
        if limit.requests is None:
            hint = "give 'requests: 20000'"
            raise InputError(Problem("a closed loop needs a number of requests", "workload", hint=hint))
        think_s = self.think.sample(streams.rng("think"), limit.requests)
        think_s[: self.users] = 0.0
        return Arrived(np.zeros(limit.requests), think_s=think_s, concurrency=self.users)
