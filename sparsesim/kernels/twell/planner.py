"""Dense or sparse, decided per layer and batch size before anything runs.

The time of the sparse FFN on one GPU is, at a given number of tokens, linear in the mean number of active neurons
(the gate is read and multiplied whatever it finds, each non-zero then costs two weight rows), plus what the dense
path of overflowing rows costs; the dense FFN's time is flat. So two measurements a batch size fix where sparse starts
to pay, and a calibration pass over real tokens says on which side of it a layer lies: by a quantile of the *batch
mean* of nnz, not by its mean, because a batch above break-even would be slower than dense. The choice is a table
looked up by the host; nothing is ever read back from the device to make it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sparsesim.laws import Floats

Choice = Literal["dense", "sparse"]

SAFE_QUANTILE = 0.95
"""Share of batches for which the chosen path has to be the faster one."""


@dataclass(frozen=True)
class FfnCosts:
    """Time of one FFN at ``tokens`` tokens: dense, and sparse as a line in the mean nnz plus overflowing rows."""

    tokens: int
    dense_s: float
    sparse_fixed_s: float
    sparse_s_per_nnz: float
    overflow_s_per_row: float = 0.0

    def sparse_s(self, mean_nnz: float, overflow_share: float = 0.0) -> float:
        """Time of the sparse FFN where ``overflow_share`` of the rows take the dense path."""
        overflow_s = overflow_share * self.tokens * self.overflow_s_per_row
        return self.sparse_fixed_s + self.sparse_s_per_nnz * mean_nnz + overflow_s

    @property
    def break_even_nnz(self) -> float:
        """Mean nnz at which both take the same time; negative where dense always wins."""
        return (self.dense_s - self.sparse_fixed_s) / self.sparse_s_per_nnz


def fit_costs(
    tokens: int,
    dense_s: float,
    sparse_times: Sequence[tuple[float, float]],
    overflow_s_per_row: float = 0.0,
) -> FfnCosts:
    """Least-squares line through measured ``(mean nnz, seconds)`` of the sparse FFN, at least two of them."""
    nnz, seconds = np.array(sparse_times, dtype=np.float64).T
    if len(set(nnz.tolist())) < 2:
        raise ValueError(f"sparse_times holds nnz {sorted(set(nnz.tolist()))}, at least two values are needed")
    slope, fixed = np.polyfit(nnz, seconds, 1)
    if slope <= 0.0:
        raise ValueError(f"the sparse FFN gets faster with nnz ({slope:.3g} s per nnz): measure it again")
    return FfnCosts(tokens, dense_s, float(fixed), float(slope), overflow_s_per_row)


@dataclass(frozen=True)
class NnzProfile:
    """What a calibration pass found in one layer: nnz of each token in sequence order, and the row capacity."""

    row_nnz: Floats
    capacity: int

    def batch_mean_quantile(self, tokens: int, quantile: float) -> float:
        """Quantile of the mean nnz over batches of ``tokens`` consecutive tokens (all, where there are fewer)."""
        window = min(tokens, len(self.row_nnz))
        total = np.concatenate([[0.0], np.cumsum(self.row_nnz, dtype=np.float64)])
        return float(np.quantile((total[window:] - total[:-window]) / window, quantile, method="higher"))

    @property
    def overflow_share(self) -> float:
        """Share of rows with more non-zeros than a sparse row can hold."""
        return float(np.mean(np.asarray(self.row_nnz) > self.capacity))


def profile(gates: Sequence[Any], capacity: int) -> NnzProfile:
    """The profile of one layer from its gate activations ``[tokens, F]`` of a calibration pass."""
    counts = [(gate > 0).sum(dim=1).double().cpu().numpy() for gate in gates]
    return NnzProfile(np.concatenate(counts), capacity)


def choose(costs: FfnCosts, found: NnzProfile, quantile: float = SAFE_QUANTILE) -> Choice:
    """Sparse where it is no slower than dense for ``quantile`` of the batches, dense otherwise."""
    mean_nnz = found.batch_mean_quantile(costs.tokens, quantile)
    return "sparse" if costs.sparse_s(mean_nnz, found.overflow_share) <= costs.dense_s else "dense"


@dataclass(frozen=True)
class FfnPlan:
    """The choice for each layer and calibrated number of tokens (rising)."""

    tokens: tuple[int, ...]
    choices: Mapping[str, tuple[Choice, ...]]

    def path(self, layer: str, tokens: int) -> Choice:
        """The choice for a batch: that of the largest calibrated size not above it, or of the smallest."""
        if layer not in self.choices:
            raise ValueError(f"plan has no layer {layer!r}, has {', '.join(self.choices)}")
        return self.choices[layer][max(0, bisect_right(self.tokens, tokens) - 1)]


def plan(costs: Sequence[FfnCosts], profiles: Mapping[str, NnzProfile], quantile: float = SAFE_QUANTILE) -> FfnPlan:
    """Choose for every layer and every batch size that ``costs`` holds."""
    ordered = sorted(costs, key=lambda cost: cost.tokens)
    choices = {name: tuple(choose(cost, found, quantile) for cost in ordered) for name, found in profiles.items()}
    return FfnPlan(tuple(cost.tokens for cost in ordered), choices)
