"""Expert-parallel dispatch and combine: by kernels of their own, or by permuting and a library's all-to-all.

Kernels of their own (modes `low_latency`, `throughput`): a launch, and the slower of what links and NIC carry.

A library's all-to-all (mode `all_to_all`), inside a node of n ranks. A rank's T tokens are P = T k d b bytes of rows,
the busiest rank gets P* >= P of them (its expected rows, from the load); (n-1)/n of either crosses the link:

    t = a + b (n-1) + r d + s T + f wire/(wire + h) + wire/(link) + 2 P/(copy),    wire = P* (n-1)/n

r d is the router's product, which one program walks along a row, and s T the counting sort (both dispatch only);
2 P/copy is the permutation or the weighted sum, which do not know of ranks.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np

from sparsesim.cost.forms.base import Floats, Form, Parameter, Parameters, Timing, bytes_per_s
from sparsesim.cost.forms.collective import between_nodes, positive
from sparsesim.cost.routing import rank_load
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Array, MoeCombine, MoeDispatch

R = TypeVar("R", MoeDispatch, MoeCombine)

_SENT = (
    Parameter("a", "s", 1e-6, 200e-6, 15e-6, "launches of a dispatch or combine inside a node"),
    Parameter("link", "1", 0.1, 1.0, 0.6, "share of the link's datasheet bytes/s"),
    Parameter("a_rdma", "s", 1e-6, 300e-6, 40e-6, "dispatch kernel between nodes"),
    Parameter("nic", "1", 0.3, 1.0, 0.9, "share of the NIC's datasheet bytes/s"),
    Parameter("rail", "s", 0.1e-6, 100e-6, 10e-6, "each doubling of the nodes"),
)
_LIBRARY = (
    Parameter("b", "s", 0.01e-6, 10e-6, 0.7e-6, "each further rank, in an all-to-all"),
    Parameter("f", "s", 0.01e-6, 60e-6, 10e-6, "the protocol switch of an all-to-all"),
    Parameter("h", "B", 1e3, 1e8, 2e6, "bytes at half of the switch"),
    Parameter("copy", "1", 0.1, 2.0, 0.7, "share of the memory's bytes/s in permutation or weighted sum"),
)


class _RoutedForm(Form[R]):
    parameters: ClassVar[tuple[Parameter, ...]] = (*_SENT, *_LIBRARY)

    def kernel_class(self, op: R) -> str:
        """A library's all-to-all is another kernel: neither stands in for the other."""
        return f"{self.op}_all_to_all.{op.dtype}" if op.mode == "all_to_all" else self.op

    def timing(self, op: R, p: Parameters, chip: Chip) -> Timing:
        """Payloads of all chosen experts, or one copy a node in throughput mode."""
        return self._by_library(op, p, chip) if op.mode == "all_to_all" else self._by_kernel(op, p, chip)

    def _by_kernel(self, op: R, p: Parameters, chip: Chip) -> Timing:
        tokens, ranks, nodes = (np.asarray(a, float) for a in np.broadcast_arrays(op.tokens, op.ranks, op.nodes))
        payload = tokens * np.asarray(op.token_bytes(), float)
        inside = payload * op.top_k * (ranks / nodes - 1.0) / np.maximum(ranks / nodes, 1.0)
        copies = (
            op.top_k * (nodes - 1.0) / nodes if op.mode == "low_latency" else remote_nodes(nodes, op.top_k, op.groups)
        )
        out = payload * copies
        alone, several = ranks <= 1, nodes > 1
        over_nic = out / (p["nic"] * positive(chip.nic_bytes_per_s))
        over_link = np.where(several, inside / nodes, inside) / (p["link"] * positive(chip.link_bytes_per_s))
        fixed = np.where(several, p["a_rdma"] + p["rail"] * np.log2(np.maximum(nodes / 2.0, 1.0)), p["a"])
        link = np.where(several, np.maximum(over_nic, over_link), over_link)
        fixed, link = np.where(alone, 0.0, fixed), np.where(alone, 0.0, link)
        zero = np.zeros_like(link)
        sent = np.where(alone, 0.0, np.where(several, out, inside))
        return Timing(fixed + link, zero, zero, zero, link, fixed, zero, 2.0 * payload * op.top_k, sent)

    def _by_library(self, op: R, p: Parameters, chip: Chip) -> Timing:
        tokens, ranks, nodes, width = (
            np.asarray(a, float) for a in np.broadcast_arrays(op.tokens, op.ranks, op.nodes, op.token_bytes())
        )
        local, rows = ranks / nodes, tokens * op.top_k
        busiest = np.maximum(busiest_rows(op, tokens, ranks), rows) * width
        wire = busiest * (local - 1.0) / local / nodes
        fixed = p["a"] + p["b"] * (local - 1.0) + p["f"] * wire / (wire + p["h"]) + self.route_s(op, tokens, p)
        over, latency = between_nodes(busiest * (nodes - 1.0) / nodes, nodes, p, chip)
        alone = ranks <= 1
        link = np.where(alone, 0.0, wire / (p["link"] * positive(chip.link_bytes_per_s)) + over)
        fixed = np.where(alone, 0.0, fixed + latency)
        passes = np.where(alone, 0.0, 2.0 * rows * width)
        memory = passes / bytes_per_s(chip, p["copy"])
        zero = np.zeros_like(link)
        sent = np.where(alone, 0.0, rows * width * (ranks - 1.0) / ranks)
        return Timing(fixed + link + memory, zero, zero, memory, link, fixed, zero, passes + 2.0 * sent, sent)

    def route_s(self, op: R, tokens: Floats, p: Parameters) -> Floats:
        """What comes before rows are permuted: nothing, unless the kernel routes."""
        return np.zeros_like(tokens)


class MoeDispatchForm(_RoutedForm[MoeDispatch]):
    """Time of `MoeDispatch`."""

    op: ClassVar[str] = "moe_dispatch"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *_SENT,
        *_LIBRARY,
        Parameter("sort", "s", 0.1e-9, 100e-9, 6e-9, "router's choice and counting sort of a token, by a library"),
        Parameter("router", "s", 1e-11, 1e-7, 2e-9, "an element of a row in the router's product, by a library"),
    )

    def route_s(self, op: MoeDispatch, tokens: Floats, p: Parameters) -> Floats:
        """The router along a row, the sort by tokens."""
        return p["sort"] * tokens + p["router"] * np.asarray(op.d_model, float)


class MoeCombineForm(_RoutedForm[MoeCombine]):
    """Time of `MoeCombine`."""

    op: ClassVar[str] = "moe_combine"


def busiest_rows(op: MoeDispatch | MoeCombine, tokens: Floats, ranks: Floats) -> Floats:
    """Expected rows of the rank that gets most, of `tokens` tokens a rank under the op's load."""
    rows = np.zeros(tokens.shape)
    for count in np.unique(ranks[ranks > 1]).tolist():
        own = ranks == count
        load = rank_load(op.load, op.experts, op.top_k, int(count))
        rows[own] = load.at(tokens[own] * count).sum(axis=-1)
    return rows


def remote_nodes(nodes: Array, top_k: int, groups: int) -> Floats:
    """Mean number of other nodes a token visits: L (1 - (1 - 1/L)^k) (N-1)/N with L = min(N, allowed groups)."""
    n = np.asarray(nodes, float)
    reach = np.minimum(n, groups) if groups else n
    return np.asarray(reach * (1.0 - (1.0 - 1.0 / reach) ** top_k) * (n - 1.0) / n)
