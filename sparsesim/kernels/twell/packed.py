"""What the pack GEMM leaves behind: words of the sparse neurons, dense values of the hot ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Packed:
    """``words``: TwELL words of all neurons but the first ``hot``, int32 ``[M, row_words]``, columns as in the FFN.

    ``gated`` ``[M, hot]``: hidden values ``relu(g) u`` of the hot neurons, ``None`` without any; or ``relu(g)`` alone
    where ``projected`` ``[M, hot]`` holds ``u``, as a backward pass needs them.
    """

    words: Any
    gated: Any = None
    projected: Any = None

    @property
    def hot(self) -> int:
        """Number of hot neurons."""
        return 0 if self.gated is None else int(self.gated.shape[1])

    @property
    def hidden(self) -> Any:
        """Hidden values of the hot neurons, ``[M, hot]``."""
        return self.gated if self.projected is None else self.gated * self.projected
