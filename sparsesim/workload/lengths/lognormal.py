"""Log-normal lengths, given by their mean and coefficient of variation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from sparsesim.families import Frozen
from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.lengths.base import Drawn, Lengths, whole_tokens
from sparsesim.workload.quantities import Length, Spread
from sparsesim.workload.requests import Floats, Ints
from sparsesim.workload.streams import Streams


class Side(Frozen):
    """One side's law: sigma^2 = ln(1 + cv^2), mu = ln(mean) - sigma^2/2; `max` clips (and so lowers the
    mean).
    """

    mean: Length
    cv: Spread
    max: Length | None = None

    def lengths(self, normal: Floats) -> Ints:
        """Tokens from standard normal numbers."""
        variance = math.log1p(self.cv**2)
        lengths = np.exp(math.log(self.mean) - variance / 2.0 + math.sqrt(variance) * normal)
        return whole_tokens(lengths if self.max is None else np.minimum(lengths, math.floor(self.max)))


class Lognormal(Lengths):
    """Log-normal prompts and outputs; `correlation` is that of their logarithms."""

    prompt: Side
    output: Side
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0

    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """Two streams of normal numbers, the output's tilted towards the prompt's by the correlation."""
        del folder
        count = len(arrived.arrival_s)
        prompt = streams.rng("prompt").standard_normal(count)
        own = streams.rng("output").standard_normal(count)
        output = self.correlation * prompt + math.sqrt(1.0 - self.correlation**2) * own
        return Drawn(self.prompt.lengths(prompt), self.output.lengths(output))
