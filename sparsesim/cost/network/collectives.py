"""Time and energy of collectives over a two-level fabric, by algorithm, and the one a library would pick.

n ranks on N nodes of g; s is the buffer as nccl-tests counts it (all-gather's output, reduce-scatter's input, else
what each rank holds). An algorithm is a list of phases, one after another; a phase's bytes flow over links and NICs at
the same time:

    t = fixed + sum over phases of [hops * hop_s + messages * rdma_s + max(link_bytes / link, nic_bytes / nic)]

    all-reduce    ring          2 (n-1)/n s around the ring; g rings, one leaving through each NIC
                  tree          2 s up and down, 2 log2 N messages (double binary tree, chain inside the node)
                  direct        reduce-scatter and all-gather straight to every peer (one node)
                  one_shot      (n-1) s straight to every peer: least latency (one node)
                  in_switch     (n+1)/n s: every byte goes up once, each rank's shard comes back down (one node)
                  hierarchical  reduce-scatter inside, all-reduce of s/g along the rails, all-gather inside
    all-gather, reduce-scatter: ring, direct, hierarchical;  broadcast: ring, tree, in_switch
    all-to-all    direct        s/n to every peer;   hierarchical: first to the rail inside the node, then across
    send          direct

A NIC phase is slowed by `penalty` and, where a share of its bytes crosses an oversubscribed spine, by
max(1, oversubscription * share).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem, closest
from sparsesim.hardware.topology import Fabric

Array = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What a communication library makes of nominal figures; fitted (see `fit`)."""

    fixed_s: float = 0.0
    link_efficiency: float = 1.0
    nic_efficiency: float = 1.0
    switch_efficiency: float = 1.0

    def achieved(self, fabric: Fabric, in_switch: bool = False) -> Fabric:
        """The fabric with achieved bandwidths."""
        share = self.switch_efficiency if in_switch else self.link_efficiency
        return replace(
            fabric,
            link_bytes_per_s=fabric.link_bytes_per_s * share,
            nic_bytes_per_s=fabric.nic_bytes_per_s * self.nic_efficiency,
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes out of the busiest device and NIC, and messages one after another."""

    hops: float = 0.0
    messages: float = 0.0
    link_bytes: Array = 0.0
    nic_bytes: Array = 0.0
    spine_share: float = 0.0

    def time_s(self, fabric: Fabric) -> Array:
        """Latencies and the slower of links and NICs."""
        wait = self.hops * fabric.hop_s + self.messages * fabric.rdma_s
        busy = np.asarray(self.link_bytes) / fabric.link_bytes_per_s
        if np.any(self.nic_bytes):
            slow = fabric.penalty * max(1.0, fabric.oversubscription * self.spine_share)
            busy = np.maximum(busy, np.asarray(self.nic_bytes) * slow / fabric.nic_bytes_per_s)
        return wait + busy


@dataclass(frozen=True, slots=True)
class Spread:
    """Ranks of a collective over nodes: n = N g."""

    ranks: int
    nodes: int
    fabric: Fabric

    @property
    def per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks // self.nodes

    @property
    def far(self) -> float:
        """Share of the other nodes that lie under another leaf."""
        under = min(self.fabric.leaf_nodes, self.nodes)
        return (self.nodes - under) / max(self.nodes - 1, 1)

    @property
    def nic_sharers(self) -> int:
        """Ranks whose traffic leaves through the same NIC."""
        return min(self.per_node, self.fabric.gpus_per_nic)


def spread(ranks: int, fabric: Fabric, nodes: int | None = None) -> Spread:
    """Ranks over `nodes`, or over as few as hold them.

    Raises:
        InputError: the ranks do not fill the nodes evenly, or there are not so many devices.

    """
    nodes = nodes if nodes is not None else -(-ranks // fabric.gpus_per_node)
    if ranks < 1 or ranks % nodes:
        raise InputError(Problem(f"{ranks} ranks do not fill {nodes} nodes evenly", hint=f"a multiple of {nodes}"))
    if nodes > fabric.nodes or ranks // nodes > fabric.gpus_per_node:
        shape = f"{fabric.nodes} nodes of {fabric.gpus_per_node}"
        raise InputError(Problem(f"{ranks} ranks on {nodes} nodes do not fit a fabric of {shape}"))
    return Spread(ranks, nodes, fabric)


def _ring(s: Array, at: Spread, rounds: int) -> list[Phase]:
    """`rounds` times around: every rank sends (n-1)/n s each time."""
    n, nodes, g = at.ranks, at.nodes, at.per_node
    sent = rounds * np.asarray(s) * (n - 1) / n
    hops, messages = rounds * (n - nodes), rounds * (nodes - 1)
    nic = sent * at.nic_sharers / g if nodes > 1 else 0.0
    crossing = 1.0 / at.fabric.leaf_nodes if at.far else 0.0
    return [Phase(hops, messages, sent * (1.0 if nodes == 1 else (g - 1) / g), nic, crossing)]


def _tree(s: Array, at: Spread, rounds: int) -> list[Phase]:
    g, sent = at.per_node, rounds * np.asarray(s)
    depth = rounds * np.ceil(np.log2(at.nodes)) if at.nodes > 1 else 0.0
    nic = sent * at.nic_sharers / g if at.nodes > 1 else 0.0
    crossing = 1.0 / at.fabric.leaf_nodes if at.far else 0.0
    link = sent if at.nodes == 1 else sent * (g - 1) / g
    return [Phase(rounds * (g - 1), float(depth), link, nic, crossing)]


def _direct(s: Array, at: Spread, rounds: int) -> list[Phase]:
    """s/n straight to every peer, each round."""
    n, g = at.ranks, at.per_node
    link, nic = np.asarray(s) * (g - 1) / n, np.asarray(s) * (n - g) / n * at.nic_sharers
    across = at.far if not at.fabric.rails else 1.0 - (1.0 - at.far) / g
    return [Phase(1.0, 1.0 if at.nodes > 1 else 0.0, link, nic, across if at.nodes > 1 else 0.0)] * rounds


def _hierarchical(s: Array, at: Spread, rounds: int) -> list[Phase]:
    """Inside the node and along the rails; two rounds for all-reduce."""
    nodes, g = at.nodes, at.per_node
    inside = Phase(hops=1.0, link_bytes=np.asarray(s) * (g - 1) / g)
    shard = np.asarray(s) / g * (nodes - 1) / nodes * at.nic_sharers
    crossing = 1.0 / at.fabric.leaf_nodes if at.far else 0.0
    across = Phase(messages=float(nodes - 1), nic_bytes=shard, spine_share=crossing)
    return [inside, across] * rounds


def _one_shot(s: Array, at: Spread) -> list[Phase]:
    return [Phase(hops=1.0, link_bytes=np.asarray(s) * (at.ranks - 1))]


def _in_switch_sum(s: Array, at: Spread) -> list[Phase]:
    return [Phase(hops=2.0, link_bytes=np.asarray(s) * (at.ranks + 1) / at.ranks)]


def _in_switch_copy(s: Array, at: Spread) -> list[Phase]:
    del at
    return [Phase(hops=1.0, link_bytes=np.asarray(s))]


def _all_to_all_hierarchical(s: Array, at: Spread) -> list[Phase]:
    nodes, g = at.nodes, at.per_node
    inside = Phase(hops=1.0, link_bytes=np.asarray(s) * (g - 1) / g)
    across = np.asarray(s) * (nodes - 1) / nodes * at.nic_sharers
    return [inside, Phase(messages=1.0, nic_bytes=across, spine_share=at.far)]


def _send(s: Array, at: Spread) -> list[Phase]:
    if at.nodes > 1:
        return [Phase(messages=1.0, nic_bytes=s, spine_share=0.0)]
    return [Phase(hops=1.0, link_bytes=s)]


Algorithm = Callable[[Array, Spread], list[Phase]]
_ONE_NODE = {"one_shot", "in_switch"}
ALGORITHMS: dict[str, dict[str, Algorithm]] = {
    "all_reduce": {
        "ring": lambda s, at: _ring(s, at, 2),
        "tree": lambda s, at: _tree(s, at, 2),
        "direct": lambda s, at: _direct(s, at, 2),
        "one_shot": _one_shot,
        "in_switch": _in_switch_sum,
        "hierarchical": lambda s, at: _hierarchical(s, at, 2),
    },
    "all_gather": {
        "ring": lambda s, at: _ring(s, at, 1),
        "direct": lambda s, at: _direct(s, at, 1),
        "hierarchical": lambda s, at: _hierarchical(s, at, 1),
    },
    "reduce_scatter": {
        "ring": lambda s, at: _ring(s, at, 1),
        "direct": lambda s, at: _direct(s, at, 1),
        "hierarchical": lambda s, at: _hierarchical(s, at, 1),
    },
    "broadcast": {
        "ring": lambda s, at: _ring(np.asarray(s) * at.ranks / max(at.ranks - 1, 1), at, 1),
        "tree": lambda s, at: _tree(s, at, 1),
        "in_switch": _in_switch_copy,
    },
    "all_to_all": {"direct": lambda s, at: _direct(s, at, 1), "hierarchical": _all_to_all_hierarchical},
    "send": {"direct": _send},
}


def phases(collective: str, algorithm: str, s: Array, at: Spread) -> list[Phase]:
    """Phases of one algorithm.

    Raises:
        InputError: unknown collective or algorithm (with the closest), or one that does not work over several nodes.

    """
    known = ALGORITHMS.get(collective)
    if known is None:
        raise InputError(Problem(f"unknown collective {collective!r}", hint=closest(collective, ALGORITHMS)))
    if algorithm not in known:
        raise InputError(Problem(f"unknown algorithm {algorithm!r} of {collective}", hint=closest(algorithm, known)))
    if algorithm not in usable(collective, at):
        raise InputError(
            Problem(f"{algorithm} {collective} of {at.ranks} ranks on {at.nodes} nodes is not possible here")
        )
    return known[algorithm](s, at)


def usable(collective: str, at: Spread) -> list[str]:
    """Algorithms that this spread and fabric allow."""
    names = list(ALGORITHMS[collective])
    if at.nodes > 1:
        names = [name for name in names if name not in _ONE_NODE]
    elif collective != "broadcast":
        names = [name for name in names if name not in ("hierarchical", "tree")]
    return [name for name in names if name != "in_switch" or at.fabric.in_switch_reduction]


def time_s(collective: str, s: Array, at: Spread, protocol: Protocol, algorithm: str | None = None) -> Array:
    """Seconds of a collective with one algorithm, or with the fastest for each size.

    A single rank costs nothing.
    """
    if at.ranks == 1:
        return np.zeros_like(np.asarray(s, dtype=np.float64))
    names = [algorithm] if algorithm is not None else usable(collective, at)
    times = [_time(collective, name, s, at, protocol) for name in names]
    return np.asarray(np.minimum.reduce(times))


def _time(collective: str, algorithm: str, s: Array, at: Spread, protocol: Protocol) -> NDArray[np.float64]:
    fabric = protocol.achieved(at.fabric, algorithm == "in_switch")
    parts = [phase.time_s(fabric) for phase in phases(collective, algorithm, s, at)]
    return np.asarray(protocol.fixed_s + sum(parts))


def energy_j(collective: str, s: Array, at: Spread, algorithm: str) -> Array:
    """Joules of all links: bytes out of every device and NIC times joules per byte of either."""
    fabric, total = at.fabric, np.zeros_like(np.asarray(s, dtype=np.float64))
    for phase in phases(collective, algorithm, s, at):
        per_rank = np.asarray(phase.nic_bytes) / at.nic_sharers * fabric.nic_j_per_byte
        total = total + at.ranks * (np.asarray(phase.link_bytes) * fabric.link_j_per_byte + per_rank)
    return np.asarray(total)


def bus_bandwidth(collective: str, s: Array, ranks: int, seconds: Array) -> Array:
    """Bytes/s as nccl-tests reports them: s/t times 2(n-1)/n for all-reduce, (n-1)/n else, 1 for broadcast, send."""
    factor = {"all_reduce": 2.0 * (ranks - 1) / ranks, "broadcast": 1.0, "send": 1.0}
    return np.asarray(s) / seconds * factor.get(collective, (ranks - 1) / ranks)
