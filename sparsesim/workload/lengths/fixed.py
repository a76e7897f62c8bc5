"""All requests alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparsesim.workload.arrivals.base import Arrived
from sparsesim.workload.lengths.base import Drawn, Lengths, whole_tokens
from sparsesim.workload.quantities import Length
from sparsesim.workload.streams import Streams


class Fixed(Lengths):
    """Every prompt has `prompt` tokens, every output `output`."""

    prompt: Length
    output: Length

    def draw(self, arrived: Arrived, streams: Streams, folder: Path | None) -> Drawn:
        """No randomness."""
        del streams, folder
        count = len(arrived.arrival_s)
        return Drawn(whole_tokens(np.full(count, self.prompt)), whole_tokens(np.full(count, self.output)))
