"""Who sends which rows to whom: one draw of the router over all ranks, the same on every rank. Plain NumPy.

Experts are dealt to slots at random, so that hot ones lie anywhere; slot s is on rank s // local. The rank that gets
most rows is then called rank 0: whoever is slowest in one draw is so in all, and the mean over draws of the slowest
rank's time is that of the busiest rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sparsesim import laws
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer
from sparsesim.calibrate.measure.runners.moe import popularity

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Slots chosen by every token of every rank `[ranks, tokens, top_k]`, ascending; `local` slots a rank."""

    slots: Ints
    local: int

    @property
    def counts(self) -> Ints:
        """Rows from each rank to each rank, `[ranks, ranks]`."""
        ranks = len(self.slots)
        return np.stack([np.bincount(own.ravel() // self.local, minlength=ranks) for own in self.slots])

    def received(self, rank: int) -> Ints:
        """Local slot of each row that `rank` gets: by sender, then by slot, then by token, as senders sort them."""
        mine = [np.sort(own[own // self.local == rank]) for own in self.slots]
        return np.concatenate(mine) - rank * self.local


@lru_cache(maxsize=16)
def draw(layer: ExpertLayer, seed: int) -> Exchange:
    """One draw of the layer's load; ranks draw their tokens independently from the same popularities."""
    shares = popularity(layer.load, layer.experts)
    place = np.random.default_rng([seed, layer.ranks]).permutation(layer.experts)
    chosen = [
        laws.sample_assignments(shares, layer.top_k, layer.tokens, np.random.default_rng([seed, rank, 1]))
        for rank in range(layer.ranks)
    ]
    slots = place[np.stack(chosen)]
    busiest = int(np.bincount(slots.ravel() // layer.local, minlength=layer.ranks).argmax())
    return Exchange(np.sort(_swapped(slots, busiest, layer.local), axis=-1), layer.local)


def _swapped(slots: Ints, busiest: int, local: int) -> Ints:
    """The same choices with the names of ranks 0 and `busiest` exchanged."""
    rank, within = np.divmod(slots, local)
    renamed = np.where(rank == busiest, 0, np.where(rank == 0, busiest, rank))
    return np.asarray(renamed * local + within)
