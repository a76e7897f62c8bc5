"""Lengths drawn from a list, each with its weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from sparsesim.families import Frozen
from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.lengths.base import Drawn, Lengths, whole_tokens
from sparsesim.workload.quantities import Length
from sparsesim.workload.requests import Ints
from sparsesim.workload.streams import Streams


class Side(Frozen):
    """Lengths and how often each occurs; equally often where no weights are given."""

    lengths: tuple[Length, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.lengths):
            raise ValueError(f"{len(self.weights)} weights for {len(self.lengths)} lengths")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are 0")
        return self

    def sample(self, rng: np.random.Generator, count: int) -> Ints:
        """`count` lengths, by inversion of the distribution function."""
        weights = np.ones(len(self.lengths)) if self.weights is None else np.array(self.weights)
        edges = np.cumsum(weights) / weights.sum()
        return whole_tokens(np.array(self.lengths))[np.searchsorted(edges[:-1], rng.random(count), side="right")]


class Empirical(Lengths):
    """Independent draws of prompt and output; to keep their pairs, draw rows of a trace instead."""

    prompt: Side
    output: Side

    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """Independent sides."""
        del folder
        count = len(arrived.arrival_s)
        return Drawn(self.prompt.sample(streams.rng("prompt"), count), self.output.sample(streams.rng("output"), count))
