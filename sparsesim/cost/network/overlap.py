"""How much of communication hides behind compute. Times in seconds; arrays broadcast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = float | NDArray[np.float64]


def behind(communication_s: Array, compute_s: Array) -> Array:
    """Both at once: the longer of the two (shared experts during dispatch)."""
    return np.maximum(communication_s, compute_s)


def exposed(communication_s: Array, compute_s: Array) -> Array:
    """What compute does not hide."""
    return np.maximum(np.asarray(communication_s) - compute_s, 0.0)


def moe_layer(
    attention_s: Array, dispatch_s: Array, experts_s: Array, combine_s: Array, shared_s: Array, overlap_shared: bool
) -> Array:
    """One batch through attention, dispatch, experts and combine; shared experts during dispatch, or after it."""
    spread = behind(dispatch_s, shared_s) if overlap_shared else np.asarray(dispatch_s) + shared_s
    return np.asarray(attention_s) + spread + experts_s + combine_s


def two_batch(attention_s: Array, dispatch_s: Array, experts_s: Array, combine_s: Array) -> Array:
    """A layer of two half batches that alternate: one computes while the other communicates.

    The arguments are those of **half** the batch (each half reads the weights again: with small batches that is why
    the overlap loses). A layer of both takes as long as the busier of compute and network, twice, or as one half's
    own chain where that is longer.
    """
    compute = np.asarray(attention_s) + experts_s
    network = np.asarray(dispatch_s) + combine_s
    return np.maximum(2.0 * np.maximum(compute, network), compute + network)
