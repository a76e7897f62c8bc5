"""Speculative decoding: a verify step gives a sequence one token and those of its draft that are accepted.

A draft of k tokens, each accepted with probability p as long as those before it were, gives 1 + A tokens with
P(A >= i) = p^i, i <= k; the mean is (1 - p^(k+1)) / (1 - p) (Leviathan et al., ICML 2023, equation 1). How many
verify steps a request takes is drawn once, when it is known what it asks; between them its context grows evenly. So
its finishing step is known when it joins the batch, and leaps stay exact. Multi-token prediction heads are the same
with their own p.

The step model must cost a verify step: draft and k + 1 tokens for every sequence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sparsesim.families import Frozen


class Speculation(Frozen):
    """A draft before every step.

    Attributes:
        draft_tok: tokens drafted.
        acceptance: probability that a drafted token is accepted, those before it being so.
        draft: what drafts: the model's own multi-token-prediction modules (mtp), or a draft model by name.

    """

    draft_tok: int = Field(ge=1)
    acceptance: float = Field(ge=0, lt=1)
    draft: str = "mtp"

    @property
    def mean_tok(self) -> float:
        """Tokens per verify step in the mean."""
        return (1 - self.acceptance ** (self.draft_tok + 1)) / (1 - self.acceptance)

    def verify_steps(self, output_tok: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """Verify steps of each request after its first token, drawn from the law; what overshoots is dropped."""
        random = np.random.default_rng(seed)
        left = output_tok - 1
        steps = np.zeros(len(left), np.int64)
        active = np.flatnonzero(left > 0)
        while len(active):
            accepted = np.minimum(random.geometric(1 - self.acceptance, len(active)) - 1, self.draft_tok)
            left[active] -= 1 + accepted
            steps[active] += 1
            active = active[left[active] > 0]
        return steps
