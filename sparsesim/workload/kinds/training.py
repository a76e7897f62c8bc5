"""A training step, for the closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from sparsesim.workload.kinds.base import Workload
from sparsesim.workload.quantities import Length
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams


class Training(Workload):
    """Micro-batches of `micro_batch` sequences forward and backward, the optimizer after `global_batch` of them.

    As requests they come together at 0 s with prompts of `sequence` tokens and one output token.
    """

    sequence: Length = Field(description="tokens of a sequence")
    micro_batch: PositiveInt = Field(description="sequences forward and backward at once on a device")
    global_batch: PositiveInt = Field(description="sequences between two steps of the optimizer")
    optimizer: Literal["adamw", "adamw-8bit", "sgd-momentum", "sgd"] = "adamw"
    saved: Literal["dense", "recomputed", "twell_hybrid"] = Field(
        "dense", description="what is kept for the backward: all, the layers' inputs only, or sparse FFN activations"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}")
        return self

    def table(self, streams: Streams, folder: Path | None) -> RequestTable:
        """A micro-batch as requests that come together."""
        del streams, folder
        prompt_tok = np.full(self.micro_batch, round(self.sequence), np.int64)
        return RequestTable.of(np.zeros(self.micro_batch), prompt_tok, np.ones(self.micro_batch, np.int64))
