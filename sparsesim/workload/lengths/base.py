"""What every law of lengths answers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsesim.errors import Problem
from sparsesim.families import Member
from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.requests import Floats, Ints, PrefixBlocks
from sparsesim.workload.streams import Streams


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens of each prompt and output, and the prompts' prefix blocks where the law knows them."""

    prompt_tok: Ints
    output_tok: Ints
    prefix_blocks: PrefixBlocks | None = None


class Lengths(Member, family="sparsesim.workload.lengths"):
    """A law of prompt and output lengths."""

    @abstractmethod
    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """One pair of lengths for every arrival."""

    def problems(self, folder: Path | None) -> list[Problem]:
        """What is wrong with this choice beyond its fields, found without drawing."""
        del folder
        return []


def whole_tokens(lengths: Floats) -> Ints:
    """Real lengths as whole numbers of tokens, rounded to the nearest, at least 1."""
    return np.maximum(np.rint(lengths), 1.0).astype(np.int64)
