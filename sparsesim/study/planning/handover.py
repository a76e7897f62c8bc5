"""KV on its way between pools, for many pairs of instances at once (`sparsesim.handover`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.errors import InputError
from sparsesim.handover import moving
from sparsesim.scenario import KvTransfer
from sparsesim.serving import card, trunk_of
from sparsesim.study.planning.instances import Instance

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Handover:
    """Of candidates: seconds of a mean prompt's KV on its links, those before its first byte, most requests/s."""

    moving_s: Floats
    latency_s: Floats
    most_per_s: Floats


@dataclass(frozen=True, slots=True)
class Cards:
    """Links of instances, [instances, 2]: through network cards and, second, inside a node. None: no bytes/s."""

    bytes_per_s: Floats
    latency_s: Floats
    kinds: npt.NDArray[np.str_]
    node: npt.NDArray[np.int64]
    trunk: Floats


def cards(instances: Sequence[Instance], settings: KvTransfer) -> Cards:
    """Links of every instance; 0 bytes/s where there is no card."""
    ends = np.array([[_end(one, inside, settings) for inside in (False, True)] for one in instances])
    return Cards(
        bytes_per_s=np.where(ends[..., 0] > 0, settings.bandwidth or ends[..., 0], 0.0),
        latency_s=ends[..., 1] if settings.latency is None else np.full(ends.shape[:2], settings.latency),
        kinds=np.array([one.made.gpu.name for one in instances]),
        node=np.array([one.made.setting.gpus_per_node for one in instances]),
        trunk=np.array([trunk_of(one.made, one.made) for one in instances]),
    )


def _end(one: Instance, inside: bool, settings: KvTransfer) -> tuple[float, float]:
    try:
        return card(one.made, inside, settings)
    except InputError:
        return 0.0, 0.0


def handover(
    ends: tuple[Cards, Cards],
    which: tuple[Rows, Rows],
    replicas: tuple[Floats, Floats],
    devices: tuple[Floats, Floats],
    sizes: Floats,
    rate: Floats,
) -> Handover:
    """The transfers of candidates.

    Args:
        ends: links of the prefill instances, and of the decode instances.
        which: of them each candidate has, [candidates].
        replicas: of either pool.
        devices: of either pool.
        sizes: bytes of a mean prompt's KV, [candidates].
        rate: requests/s.

    """
    (out, into), (i, j) = ends, which
    total = devices[0] + devices[1]
    inside = (out.kinds[i] == into.kinds[j]) & (total <= np.minimum(out.node[i], into.node[j]))
    place = inside.astype(int)
    trunk = np.where(np.isinf(out.trunk[i]), into.trunk[j], out.trunk[i]) * np.minimum(*devices)
    speeds = [
        out.bytes_per_s[i, place],
        into.bytes_per_s[j, place],
        np.where(inside, math.inf, trunk),
    ]
    each = [rate / replicas[0], rate / replicas[1], rate]
    seconds, times = moving(sizes, speeds, each)
    return Handover(
        moving_s=seconds,
        latency_s=np.maximum(out.latency_s[i, place], into.latency_s[j, place]),
        most_per_s=times * rate,
    )
