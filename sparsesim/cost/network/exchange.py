"""Activations between attention devices and devices that hold the routed experts (M2N, and N2M back).

Of T tokens each goes once to every expert device it visits, v of them in the mean, and their sums come back:

    t = fixed + max(T v s / (M B_a), T max_d v_d s / B_e)

M attention devices send evenly, v_d is the chance that a token visits expert device d; s are a token's bytes, B_a and
B_e what a device of either side achieves. `fixed` and the achieved share of nominal bandwidth are those of the expert
parallel kernels fitted to published rows (`placed`): they move the same tokens between the same kinds of devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsesim.cost.fitted import TRANSFER_HALF_WIDTH
from sparsesim.cost.forms.base import Floats
from sparsesim.cost.kernel import BOUNDS, Cost
from sparsesim.cost.network.expert_parallel import ExpertParallel
from sparsesim.cost.network.fitted import KernelFit, load_kernel_fit
from sparsesim.cost.network.moe import ExpertKernel
from sparsesim.cost.network.placed import DOMAIN, ISLAND, ISLAND_GPUS
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.topology import load_topology
from sparsesim.work import Array, MoeCombine, MoeDispatch


@dataclass(frozen=True, slots=True)
class Link:
    """What joins the two groups, per device of each: bandwidths achieved, nodes spanned, joules of a byte sent.

    `latency` stands for the fitted kernels' own where it is given; `said`: a scenario gave it and the bandwidth.
    """

    attention_bytes_per_s: float
    expert_bytes_per_s: float
    nodes: int
    attention_j_per_byte: float
    expert_j_per_byte: float
    fit: KernelFit
    half_width: float
    said: bool = False
    latency: float | None = None

    def around(self, kernel: ExpertKernel) -> ExpertKernel:
        """The kernel, its latency the one asked for if any."""
        if self.latency is None:
            return kernel
        return replace(kernel, fixed_s=self.latency, floor_s=0.0, per_doubling_s=0.0)


def link_between(
    attention: Gpu, experts: Gpu, devices: tuple[int, int], bandwidth: float | None = None, latency: float | None = None
) -> Link:
    """Over the links of one node where both groups fit it, else over network cards; or as fast as is said.

    Raises:
        InputError: a device has no network card and no bandwidth is given.

    """
    width = attention.node.gpus.value
    inside = attention.name == experts.name and sum(devices) <= width
    fit = load_kernel_fit(DOMAIN if inside and width > ISLAND_GPUS else ISLAND)
    own, other = (_achieved(gpu, inside, fit) if bandwidth is None else bandwidth for gpu in (attention, experts))
    own_j, other_j = (_j_per_byte(gpu, inside) for gpu in (attention, experts))
    transferred = attention.name.split("-")[0] not in fit.name
    return Link(
        attention_bytes_per_s=own,
        expert_bytes_per_s=other,
        nodes=-(-sum(devices) // width),
        attention_j_per_byte=own_j,
        expert_j_per_byte=other_j,
        fit=fit,
        half_width=fit.half_width + TRANSFER_HALF_WIDTH * transferred,
        said=bandwidth is not None and latency is not None,
        latency=latency,
    )


def _achieved(gpu: Gpu, inside: bool, fit: KernelFit) -> float:
    """What a device achieves one way: the fitted kernel's share of its own link or cards."""
    nominal = load_topology(fit.topology).fabric()
    if inside and gpu.link is not None:
        return gpu.link.bandwidth.value * fit.dispatch.link_bytes_per_s / nominal.link_bytes_per_s
    if gpu.nic is None:
        text = f"{gpu.name} has no network card to send activations over"
        raise InputError(Problem(text, path="bandwidth", hint="such as 50 GB/s"))
    cards = gpu.node.nics.value / gpu.node.gpus.value
    return gpu.nic.bandwidth.value * cards * fit.dispatch.nic_bytes_per_s / nominal.nic_bytes_per_s


def _j_per_byte(gpu: Gpu, inside: bool) -> float:
    port = gpu.link if inside else gpu.nic
    return port.energy.value if port else 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """Dispatch to the experts' devices, or combine back from them.

    Attributes:
        op: the exchange of one token per attention device, which says what a token's payload is.
        senders: attention devices.
        visited: expert devices that a token visits in the mean.
        busiest: share of all tokens that visit the busiest expert device.
        link: what joins them.

    """

    op: MoeDispatch | MoeCombine
    senders: int
    visited: float
    busiest: float
    link: Link

    @property
    def kernel(self) -> ExpertKernel:
        """Its fitted kernel on this link."""
        fit = self.link.fit
        return self.link.around(fit.dispatch if isinstance(self.op, MoeDispatch) else fit.combine)

    def sent_bytes(self, tokens: Array) -> Floats:
        """Bytes between the groups for `tokens` of all attention devices together."""
        return np.asarray(tokens, float) * self.visited * float(np.max(np.asarray(self.op.token_bytes())))

    def time_s(self, tokens: Array) -> Floats:
        """Seconds for `tokens` of all attention devices together."""
        sent = self.sent_bytes(tokens)
        own = sent / self.senders / self.link.attention_bytes_per_s
        other = sent / self.visited * self.busiest / self.link.expert_bytes_per_s
        return np.asarray(self.kernel.of_transfer_s(np.maximum(own, other), self.link.nodes))

    def energy_j(self, tokens: Array) -> Floats:
        """Joules of all devices, counted where the bytes leave."""
        link, leaves = self.link, isinstance(self.op, MoeDispatch)
        return self.sent_bytes(tokens) * (link.attention_j_per_byte if leaves else link.expert_j_per_byte)

    def cost(self, tokens: Array, static_w: float) -> Cost:
        """As of one attention device."""
        time = self.time_s(tokens)
        none, sent = np.zeros_like(time), self.sent_bytes(tokens) / self.senders
        said = self.link.said
        return Cost(
            time_s=time,
            core_s=none,
            throttled_s=none,
            compute_j=none,
            memory_j=none,
            link_j=self.energy_j(tokens) / self.senders,
            static_j=static_w * time,
            bound=np.full(time.shape, BOUNDS.index("network")),
            half_width=np.full(time.shape, 0.0 if said else self.link.half_width),
            flop=none,
            hbm_bytes=none,
            link_bytes=sent,
            sram_bytes=none,
            operand_bytes=none,
            kernel_class=f"{self.op.op}.m2n",
            provenance="as the scenario says" if said else f"published, fitted as {self.link.fit.name}",
        )


def visits_of(groups: tuple[ExpertParallel, ...], devices: int) -> tuple[float, float]:
    """Expert devices that a token visits, and the share of tokens that the busiest takes: means over layers.

    Without groups every device has a part of every expert, and every token visits them all.
    """
    if not groups:
        return float(devices), 1.0
    each = [group.visits.rank for group in groups]
    return float(np.mean([rank.sum() for rank in each])), float(np.mean([rank.max() for rank in each]))
