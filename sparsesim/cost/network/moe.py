"""MoE dispatch and combine: from tokens and where they go to bytes on ports, seconds and joules.

All ranks route alike (the same chances of visiting rank d), so that what rank s sends to rank d is
`tokens[s] * visits[d] * token_bytes`: row and column sums need no matrix, and a thousand ranks cost microseconds.

Three ways to send (`mode`):

- `low_latency`: one copy per expert chosen, straight to its rank, over the node's links or the NICs.
- `one_sided`: one copy per rank visited, straight to it.
- `throughput`: one copy per node visited, through the NIC to the device on the same rail, which passes one copy to
  each rank visited in its node; inside the source's node one copy per rank visited.

Combine is the same with senders and receivers exchanged (partial sums travel instead of tokens).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsesim.cost.network.routing import Visits
from sparsesim.errors import InputError, Problem, closest
from sparsesim.hardware.topology import Fabric

Array = float | NDArray[np.float64]
Floats = NDArray[np.float64]
Mode = Literal["low_latency", "one_sided", "throughput"]
LOW_LATENCY_TOK = 256
"""Tokens a rank up to which engines use the low-latency kernels between nodes: DeepEP's README asks for batches below
256, as their buffers hold a token for every expert; beyond, the throughput kernels send a token once to a node."""

MODES = ("low_latency", "one_sided", "throughput")


def mode_of(tokens: float, nodes: int, asked: str) -> Mode:
    """How `tokens` tokens a rank are sent when an op asks for a mode."""
    direct = asked != "throughput" and (nodes == 1 or tokens <= LOW_LATENCY_TOK)
    return "low_latency" if direct else "throughput"


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Bytes of one dispatch, by port and direction.

    Out of and into every device over its node's links `[ranks]`, every NIC `[NICs]`, and between every leaf (of each
    rail) and the spine `[leaves]`.
    """

    link_out: Floats
    link_in: Floats
    nic_out: Floats
    nic_in: Floats
    spine_up: Floats

    def reversed(self) -> Loads:
        """Of the combine that belongs to this dispatch; what went up to the spine now comes down."""
        return Loads(self.link_in, self.link_out, self.nic_in, self.nic_out, self.spine_up)

    @property
    def busiest_link(self) -> float:
        """Bytes through the busiest port of a node's switch, one direction."""
        return float(max(self.link_out.max(), self.link_in.max()))

    @property
    def busiest_nic(self) -> float:
        """Bytes through the busiest NIC, one direction."""
        return float(max(self.nic_out.max(initial=0.0), self.nic_in.max(initial=0.0)))

    def transfer_s(self, fabric: Fabric) -> tuple[float, float]:
        """Seconds of the busiest link, and of the busiest NIC or spine uplink."""
        link = self.busiest_link / fabric.link_bytes_per_s
        if not self.busiest_nic:
            return link, 0.0
        uplink = fabric.nic_bytes_per_s * fabric.leaf_nodes / fabric.oversubscription
        uplink *= 1.0 if fabric.rails else fabric.nics_per_node
        across = max(self.busiest_nic / fabric.nic_bytes_per_s, float(self.spine_up.max(initial=0.0)) / uplink)
        return link, across * fabric.penalty

    def energy_j(self, fabric: Fabric) -> float:
        """Joules on links and NICs: all bytes times the joules per byte of either."""
        return float(self.link_out.sum() * fabric.link_j_per_byte + self.nic_out.sum() * fabric.nic_j_per_byte)


def dispatch_loads(tokens: Array, visits: Visits, token_bytes: float, fabric: Fabric, mode: Mode) -> Loads:
    """Loads of a dispatch of `tokens` per rank (one number, or `[ranks]`).

    Raises:
        InputError: unknown mode, ranks that do not fill nodes, or more ranks than the fabric has devices.

    """
    if mode not in MODES:
        raise InputError(Problem(f"unknown mode {mode!r}", hint=closest(mode, MODES)))
    ranks = len(visits.rank)
    width = min(fabric.gpus_per_node, ranks)
    if ranks % width or ranks > fabric.devices:
        shape = f"{fabric.nodes} nodes of {fabric.gpus_per_node}"
        raise InputError(Problem(f"{ranks} expert-parallel ranks do not fill a fabric of {shape}"))
    sent = np.broadcast_to(np.asarray(tokens, dtype=np.float64), (ranks,)) * token_bytes
    if mode == "throughput":
        return _through_rails(sent.reshape(-1, width), visits, fabric)
    return _straight(sent.reshape(-1, width), visits.copies if mode == "low_latency" else visits.rank, fabric)


def _straight(sent: Floats, copies: Floats, fabric: Fabric) -> Loads:
    """Every copy from its source to its rank, `sent` being `[nodes, gpus]`."""
    nodes, width = sent.shape
    taken = copies.reshape(nodes, width)
    inside_out = sent * (taken.sum(axis=1, keepdims=True) - taken)
    inside_in = taken * (sent.sum(axis=1, keepdims=True) - sent)
    across_out = sent * (taken.sum() - taken.sum(axis=1, keepdims=True))
    across_in = taken * (sent.sum() - sent.sum(axis=1, keepdims=True))
    spine = _straight_spine(sent, taken, fabric)
    return Loads(inside_out.ravel(), inside_in.ravel(), _nics(across_out, fabric), _nics(across_in, fabric), spine)


def _nics(per_device: Floats, fabric: Fabric) -> Floats:
    """Bytes per NIC for bytes per device, `[nodes, gpus]`."""
    sharers = min(fabric.gpus_per_nic, per_device.shape[1])
    return np.asarray(per_device.reshape(-1, sharers).sum(axis=1))


def _leaves(per_device: Floats, fabric: Fabric) -> Floats:
    """Sums over the devices of a leaf: `[nodes, gpus] -> [groups of nodes, rails]` (one rail where there is none)."""
    nodes, width = per_device.shape
    under = min(fabric.leaf_nodes, nodes)
    padded = np.zeros((-(-nodes // under) * under, width))
    padded[:nodes] = per_device
    grouped = padded.reshape(-1, under, width).sum(axis=1)
    rails = width // min(fabric.gpus_per_nic, width) if fabric.rails else 1
    return np.asarray(grouped.reshape(len(grouped), rails, -1).sum(axis=2))


def _straight_spine(sent: Floats, taken: Floats, fabric: Fabric) -> Floats:
    """What goes up from every leaf, or comes down to it, whichever is more."""
    return np.asarray(np.maximum(_leaf_up(sent, taken, fabric), _leaf_up(taken, sent, fabric))).ravel()


def _leaf_up(sent: Floats, taken: Floats, fabric: Fabric) -> Floats:
    """Copies neither for the source's node nor for its leaf, by leaf."""
    here, there = _leaves(sent, fabric), _leaves(taken, fabric)
    if not fabric.rails:
        return np.asarray(here * (taken.sum() - there))
    sharers = min(fabric.gpus_per_nic, sent.shape[1])
    on_rail = taken.reshape(len(taken), -1, sharers).sum(axis=2).repeat(sharers, axis=1)
    stays_in_node = _leaves(sent * taken.sum(axis=1, keepdims=True), fabric)
    return np.asarray(here * taken.sum() - stays_in_node - here * there + _leaves(sent * on_rail, fabric))


def _through_rails(sent: Floats, visits: Visits, fabric: Fabric) -> Loads:
    """One copy per node visited along the rail, then one per rank visited inside the node."""
    nodes, width = sent.shape
    rank = visits.rank.reshape(nodes, width)
    others = sent.sum(axis=0, keepdims=True) - sent
    held = sent + others
    link_out = held * (rank.sum(axis=1, keepdims=True) - rank)
    link_in = rank * (held.sum(axis=1, keepdims=True) - held)
    across_out = sent * (visits.node.sum() - visits.node)[:, None]
    across_in = others * visits.node[:, None]
    under = min(fabric.leaf_nodes, nodes)
    same_leaf = np.equal.outer(np.arange(nodes) // under, np.arange(nodes) // under)
    up = sent * (~same_leaf @ visits.node)[:, None]
    down = (~same_leaf @ sent) * visits.node[:, None]
    spine = np.maximum(_leaves(up, fabric), _leaves(down, fabric)).ravel()
    return Loads(link_out.ravel(), link_in.ravel(), _nics(across_out, fabric), _nics(across_in, fabric), spine)


def traffic_matrix(tokens: Array, visits: Visits, token_bytes: float, gpus_per_node: int, mode: Mode) -> list[Floats]:
    """Bytes from rank to rank, `[ranks, ranks]`, one matrix per stage: what a simulation puts on a network.

    One stage for direct modes; for `throughput` the stage along the rails and the stage inside the nodes, which run
    at the same time (pipelined).
    """
    ranks = len(visits.rank)
    sent = np.broadcast_to(np.asarray(tokens, dtype=np.float64), (ranks,)) * token_bytes
    if mode != "throughput":
        matrix = np.outer(sent, visits.copies if mode == "low_latency" else visits.rank)
        np.fill_diagonal(matrix, 0.0)
        return [matrix]
    width = min(gpus_per_node, ranks)
    node, rail = np.divmod(np.arange(ranks), width)
    same_node = node[:, None] == node[None, :]
    same_rail = rail[:, None] == rail[None, :]
    along = np.where(same_rail & ~same_node, np.outer(sent, visits.node[node]), 0.0)
    held = sent.reshape(-1, width).sum(axis=0)[rail]
    inside = np.where(same_node, np.outer(held, visits.rank), 0.0)
    np.fill_diagonal(inside, 0.0)
    return [along, inside]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertKernel:
    """Fitted figures of one dispatch or combine kernel; bandwidths are what it achieves.

    t = pnorm(knee; floor, fixed + per_doubling * log2(max(N/2, 1)) + transfer), where transfer is the slower of links
    and NICs, or for `throughput` their p-norm (the stages are pipelined but share copy engines).
    """

    mode: Mode
    fixed_s: float
    link_bytes_per_s: float
    nic_bytes_per_s: float = 0.0
    floor_s: float = 0.0
    per_doubling_s: float = 0.0
    knee: float = 4.0

    def on(self, fabric: Fabric, nominal: Fabric) -> ExpertKernel:
        """The kernel on another fabric, its bandwidths the same share of the nominal ones."""
        link = self.link_bytes_per_s * fabric.link_bytes_per_s / nominal.link_bytes_per_s
        nic = self.nic_bytes_per_s
        if nic and nominal.nic_bytes_per_s and fabric.nic_bytes_per_s:
            nic *= fabric.nic_bytes_per_s / nominal.nic_bytes_per_s
        return replace(self, link_bytes_per_s=link, nic_bytes_per_s=nic)

    def transfer_s(self, loads: Loads, fabric: Fabric) -> float:
        """Seconds of the busiest port, NIC or uplink; proportional to the loads."""
        nic_bytes_per_s = self.nic_bytes_per_s or fabric.nic_bytes_per_s
        achieved = replace(fabric, link_bytes_per_s=self.link_bytes_per_s, nic_bytes_per_s=nic_bytes_per_s)
        link, nic = loads.transfer_s(achieved)
        return float(smooth_max(self.knee, link, nic)) if self.mode == "throughput" else max(link, nic)

    def of_transfer_s(self, transfer_s: Array, nodes: int) -> Array:
        """Seconds of the kernel around a transfer, over `nodes` nodes."""
        latency = self.fixed_s + self.per_doubling_s * float(np.log2(max(nodes / 2.0, 1.0)))
        return smooth_max(self.knee, self.floor_s, latency + np.asarray(transfer_s))

    def time_s(self, loads: Loads, fabric: Fabric, nodes: int) -> float:
        """Seconds for loads over `nodes` nodes."""
        return float(self.of_transfer_s(self.transfer_s(loads, fabric), nodes))


def smooth_max(knee: float, one: Array, other: Array) -> Array:
    """`(a^p + b^p)^(1/p)`, scaled so that nothing overflows."""
    top = np.maximum(np.maximum(one, other), np.finfo(float).tiny)
    return np.asarray(top * ((one / top) ** knee + (other / top) ** knee) ** (1.0 / knee))


def step_s(
    tokens: Array,
    visits: Visits,
    token_bytes: tuple[float, float],
    fabric: Fabric,
    kernels: tuple[ExpertKernel, ExpertKernel],
) -> tuple[float, float]:
    """Seconds of dispatch and of combine of one layer, for payloads and kernels of either."""
    dispatch, combine = kernels
    nodes = len(visits.node)
    there = dispatch_loads(tokens, visits, token_bytes[0], fabric, dispatch.mode)
    back = dispatch_loads(tokens, visits, token_bytes[1], fabric, combine.mode).reversed()
    return dispatch.time_s(there, fabric, nodes), combine.time_s(back, fabric, nodes)


def imbalance(tokens: Array, visits: Visits, even: Visits, fabric: Fabric, mode: Mode) -> float:
    """How much longer the busiest port takes than under `even` visits: what multiplies an even form's transfer."""
    mean = float(np.mean(tokens))
    skewed = dispatch_loads(tokens, visits, 1.0, fabric, mode).transfer_s(fabric)
    level = dispatch_loads(mean, even, 1.0, fabric, mode).transfer_s(fabric)
    return max(skewed) / max(level)
