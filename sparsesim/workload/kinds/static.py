"""One fixed batch, for the closed form: no queue, nothing comes or goes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from sparsesim.workload.kinds.base import Workload
from sparsesim.workload.quantities import Length
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams


class Static(Workload):
    """`batch` sequences in one phase: decoding at `context` tokens, or prefilling `context` tokens each.

    As requests they come together at 0 s with prompts of `context` tokens: one output token for prefill,
    two for decode (the first token is the prefill's).
    """

    phase: Literal["decode", "prefill"] = "decode"
    batch: PositiveInt
    context: Length

    def table(self, streams: Streams, folder: Path | None) -> RequestTable:
        """The batch as requests that come together."""
        del streams, folder
        prompt_tok = np.full(self.batch, round(self.context), np.int64)
        output_tok = np.full(self.batch, 1 if self.phase == "prefill" else 2, np.int64)
        return RequestTable.of(np.zeros(self.batch), prompt_tok, output_tok)
