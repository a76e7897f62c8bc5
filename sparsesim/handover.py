"""KV on its way from prefill to decode replicas, in closed form: the links of the simulation's flows, in the mean.

A request's KV leaves over its prefill replica's cards, passes the trunk between the pools if there is one, and comes in
over its decode replica's cards. Transfers that meet share a link (processor sharing), so that a link of C bytes/s that
is busy for a share of the time gives each of them C (1 - share) in the mean. The request then waits for the end of a
decode iteration; both fall between its first two tokens, one of its o - 1 gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.scenario import KvTransfer
from sparsesim.serving import kv_by_window, transfer_of
from sparsesim.sim.transfer import SharedLinks
from sparsesim.system import PoolSystem

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a delay between a request's first two tokens adds to its TPOT: one over its gaps, o - 1.

    Means and percentiles over requests, and those of a delay that grows with the prompt (over the mean prompt's).
    """

    mean: float = 0.0
    high: float = 0.0
    mean_by_prompt: float = 0.0
    high_by_prompt: float = 0.0

    @classmethod
    def of(cls, prompt_tok: npt.NDArray[Any], output_tok: npt.NDArray[Any], percentile: float) -> Gaps:
        """Of requests' lengths; one token has no gap."""
        several = output_tok > 1
        share = np.where(several, 1.0 / np.maximum(output_tok - 1.0, 1.0), 0.0)
        columns = (share, share * prompt_tok / prompt_tok.mean())
        (mean, high), (mean_by, high_by) = (
            (float(one[several].mean()) if several.any() else 0.0, float(np.percentile(one, percentile)))
            for one in columns
        )
        return cls(mean, high, mean_by, high_by)


def moving(sizes: Floats, speeds: Sequence[Floats], shares: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Seconds that a transfer takes beside others, and the load at which the first link is busy all the time.

    Args:
        sizes: bytes of one.
        speeds: bytes/s of every link on the way.
        shares: transfers/s of each link.

    """
    sizes = np.maximum(sizes, 1e-300)
    pairs = list(zip(speeds, shares, strict=True))
    left = np.min([speed - np.minimum(share * sizes, speed) for speed, share in pairs], axis=0)
    times = np.min([speed / np.maximum(share * sizes, 1e-300) for speed, share in pairs], axis=0)
    return np.asarray(sizes / np.maximum(left, 1e-300)), np.asarray(times)


def kv_bytes(system: PoolSystem, tokens: float) -> float:
    """Bytes of a request's KV and state where it decodes."""
    kept = sum(min(tokens, window) * size for window, size in kv_by_window(system).items())
    return kept + system.model.state_bytes(system.setting.precision)


def transfer_s(
    pools: Mapping[str, PoolSystem], settings: KvTransfer, tokens: float, rate_per_s: float
) -> tuple[float, float, float]:
    """Seconds before the first byte, those of the KV of `tokens`, and the most transfers/s.

    Raises:
        InputError: nothing links the devices.

    """
    links = transfer_of(pools, settings)
    assert isinstance(links, SharedLinks)
    replicas = pools["prefill"].pool.replicas, pools["decode"].pool.replicas
    speeds = [np.array(links.out_bytes_per_s), np.array(links.in_bytes_per_s), np.array(links.trunk_bytes_per_s)]
    shares = [np.array(rate_per_s / count) for count in (*replicas, 1)]
    seconds, times = moving(np.array(kv_bytes(pools["decode"], tokens)), speeds, shares)
    return links.latency_s, float(seconds), float(times) * rate_per_s
