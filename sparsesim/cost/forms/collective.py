"""Collectives: a fitted form inside a node, the NIC's share between nodes.

Inside a node of n ranks, s the buffer, wire = s (n-1)/n (twice that for all-reduce):

    t = a + b (n-1) + (f + f_n n) wire/(wire + h) + wire/bw + (s/n)/bw_own

The saturating term is the protocol switch. The last one is the share of a rank that goes nowhere: every rank handles
its own s/n once more than it sends (a ring's first step copies and sends, its last only receives; an all-to-all copies
its own part), so that a pair spends as much time on it as on the wire and eight ranks next to none. Two ranks cannot
tell bw from bw_own; the one-way send, which has no own part, holds bw where nothing else does.

Across N nodes every rank has its own NIC on its own rail: what must leave the node crosses it once,
`t_nic = l log2(N) + bytes_out / (e * nic)`, after the part inside the node.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np

from sparsesim.cost.forms.base import Floats, Form, Parameter, Parameters, Timing
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import (
    AllGather,
    AllReduce,
    AllToAll,
    Array,
    Collective,
    ReduceScatter,
    Send,
)

C = TypeVar("C", bound=Collective)

EVEN_UP_TO = 0.02
"""Skew above one from which an exchange counts as uneven: any difference of sizes takes the pairwise path."""

_NETWORK = (
    Parameter("nic", "1", 0.5, 1.0, 0.97, "share of the NIC's datasheet bytes/s (48-49 of 50 GB/s achieved)"),
    Parameter("rail", "s", 0.5e-6, 60e-6, 5e-6, "each doubling of the nodes"),
)
_NODE = (
    Parameter("a", "s", 1e-6, 60e-6, 9e-6, "a message's latency"),
    Parameter("b", "s", 0.01e-6, 10e-6, 0.7e-6, "each further rank"),
    Parameter("f", "s", 0.01e-6, 60e-6, 6e-6, "the protocol switch"),
    Parameter("f_n", "s", 0.001e-6, 10e-6, 0.5e-6, "the protocol switch, a rank"),
    Parameter("h", "B", 1e3, 1e8, 2e5, "bytes at half of the switch"),
    Parameter("link", "1", 0.3, 1.0, 0.83, "share of the link's datasheet bytes/s; at first a one-way send's"),
    Parameter("own", "1", 0.02, 5.0, 0.3, "a rank's own share, in units of the memory's bytes/s"),
)


class _CollectiveForm(Form[C]):
    parameters: ClassVar[tuple[Parameter, ...]] = (*_NODE, *_NETWORK)
    passes: ClassVar[float] = 1.0

    def kernel_class(self, op: C) -> str:
        """One set per collective, inside and outside of graphs."""
        return f"{self.op}.{'graph' if op.graph else 'eager'}"

    def timing(self, op: C, p: Parameters, chip: Chip) -> Timing:
        """Node part, then the part between nodes."""
        n, nodes, size = (np.asarray(a, float) for a in np.broadcast_arrays(op.gpus, op.nodes, op.bytes))
        local = n / nodes
        stretch = self.stretch(op, p)
        wire, own = self.passes * size * (local - 1.0) / local * stretch, size / local * stretch
        switch = (p["f"] + p["f_n"] * local) * wire / (wire + p["h"])
        inside = p["a"] + p["b"] * (local - 1.0) + switch
        moved = wire / (p["link"] * positive(chip.link_bytes_per_s)) + own / (p["own"] * chip.bandwidth_bytes_per_s)
        between, latency = between_nodes(self.outgoing(op, size, n, nodes), nodes, p, chip)
        alone = n <= 1
        fixed = np.where(alone, 0.0, np.where(local > 1, inside, p["a"]) + latency)
        link = np.where(alone, 0.0, np.where(local > 1, moved, 0.0) + between)
        zero = np.zeros_like(link)
        sent = np.where(alone, 0.0, np.asarray(op.link_bytes(), float))
        hbm = np.where(alone, 0.0, 2.0 * size)
        return Timing(fixed + link, zero, zero, zero, link, fixed, zero, hbm, sent)

    def stretch(self, op: C, p: Parameters) -> Array:
        """How much longer the busiest direction takes than an even exchange."""
        return 1.0

    def outgoing(self, op: C, size: Floats, n: Floats, nodes: Floats) -> Floats:
        """Bytes one rank's NIC carries: its share of the node's, to the other nodes."""
        return np.asarray(self.passes * size / (n / nodes) * (nodes - 1.0) / nodes)


class AllReduceForm(_CollectiveForm[AllReduce]):
    """Time of `AllReduce`."""

    op: ClassVar[str] = "all_reduce"
    passes: ClassVar[float] = 2.0


class AllGatherForm(_CollectiveForm[AllGather]):
    """Time of `AllGather`."""

    op: ClassVar[str] = "all_gather"


class ReduceScatterForm(_CollectiveForm[ReduceScatter]):
    """Time of `ReduceScatter`."""

    op: ClassVar[str] = "reduce_scatter"


class AllToAllForm(_CollectiveForm[AllToAll]):
    """Time of `AllToAll`.

    An uneven exchange is sent pair by pair: its directions no longer overlap, so that time follows the sum of the
    busiest rank's share and of what the others still send, rather than the busiest alone; where everything goes to one
    rank there is one direction only. stretch = alpha skew + beta (2 - skew) between the two ends.
    """

    op: ClassVar[str] = "all_to_all"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *_NODE,
        *_NETWORK,
        Parameter("busiest", "1", 0.5, 4.0, 1.3, "time of the busiest rank's share, over an even exchange's"),
        Parameter("others", "1", 0.01, 3.0, 0.8, "time of the other direction's share, over an even exchange's"),
        Parameter("alone", "1", 0.3, 2.0, 0.8, "time of a direction that has the link to itself, likewise"),
    )

    def stretch(self, op: AllToAll, p: Parameters) -> Array:
        """How much longer than an even exchange of the same buffers."""
        skew, n = np.asarray(op.skew, float), np.asarray(op.gpus, float)
        uneven = np.clip((skew - 1.0) / EVEN_UP_TO, 0.0, 1.0)
        both = p["busiest"] * skew + p["others"] * np.maximum(2.0 - skew, 0.0)
        stretched = 1.0 + uneven * (np.maximum(both, 1.0) - 1.0)
        return np.asarray(np.where(skew >= n, np.maximum(p["alone"] * skew, 1.0), stretched))

    def outgoing(self, op: AllToAll, size: Floats, n: Floats, nodes: Floats) -> Floats:
        """Every rank's buffer goes to all ranks in equal parts: (N-1)/N of it leaves the node."""
        return np.asarray(op.skew * size * (nodes - 1.0) / nodes)


class SendForm(Form[Send]):
    """Time of `Send`."""

    op: ClassVar[str] = "send"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("a", "s", 1e-6, 60e-6, 9e-6, "a message's latency"),
        Parameter("f", "s", 0.01e-6, 60e-6, 4e-6, "the protocol switch"),
        Parameter("h", "B", 1e3, 1e8, 2e5, "bytes at half of the switch"),
        Parameter("link", "1", 0.3, 1.0, 0.83, "share of the link's datasheet bytes/s"),
        *_NETWORK,
    )

    def kernel_class(self, op: Send) -> str:
        """One set inside and one outside of graphs."""
        return f"send.{'graph' if op.graph else 'eager'}"

    def timing(self, op: Send, p: Parameters, chip: Chip) -> Timing:
        """Over the link inside a node, over the NIC between nodes."""
        nodes, size = (np.asarray(a, float) for a in np.broadcast_arrays(op.nodes, op.bytes))
        inside = size / (p["link"] * positive(chip.link_bytes_per_s))
        between, latency = between_nodes(np.where(nodes > 1, size, 0.0), nodes, p, chip)
        link = np.where(nodes > 1, between, inside)
        fixed = p["a"] + p["f"] * size / (size + p["h"]) + latency
        zero = np.zeros_like(link)
        return Timing(fixed + link, zero, zero, zero, link, fixed, zero, 2.0 * size, size)


def between_nodes(out: Floats, nodes: Floats, p: Parameters, chip: Chip) -> tuple[Floats, Floats]:
    """Seconds of the bytes through a rank's NIC, and the latency of several nodes."""
    several = nodes > 1
    seconds = np.where(several, out / (p["nic"] * positive(chip.nic_bytes_per_s)), 0.0)
    latency = np.where(several, chip.nic_s + p["rail"] * np.log2(np.maximum(nodes, 1.0)), 0.0)
    return seconds, latency


def positive(rate: float) -> float:
    """A rate, or infinitely slow where the chip has no such link: the time says so."""
    return rate if rate > 0 else 1e-30
