"""A decode iteration's cost as curves over context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Channel:
    """The part of a decode iteration that depends on the context within one attention window.

    Attributes:
        window: tokens; inf is full attention.
        knots: mean context in tokens, increasing, [k].
        values: time_s and energy_j by component at each knot, [k, 1 + components]; linear between knots, and beyond
            the first and the last one as in the segment next to it (k = 1 is a constant).

    """

    window: float
    knots: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class DecodeCurve:
    """A decode iteration of a fixed number of sequences: `base` ([1 + components]) plus its channels."""

    base: Floats
    channels: tuple[Channel, ...]
