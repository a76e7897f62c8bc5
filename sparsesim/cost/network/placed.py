"""The cost model of a replica on a topology, its experts placed: what scenario keys `topology` and `placement` change.

- Links and NICs take the topology's bandwidths, latencies and energies in place of the hardware's own node.
- Dispatch and combine are the kernels fitted to published rows (low latency on nodes of eight, one-sided in larger
  NVLink domains) around the busiest port, NIC or oversubscribed uplink; bandwidths keep their share of nominal ones.
  More than 256 tokens a rank go between nodes by the throughput kernels, once to a node, for which nothing published
  was fitted: their figures are the form's own start. Where the hardware's own fit measured dispatch and combine, they
  take, beyond the even closed form, tokens times what the busiest port carries more than evenly.
- Collectives keep their fitted form; beyond it an oversubscribed spine costs time, and switches that add up save some.
- The expert kernel is that of the busiest rank: its tokens, its slots.

Where hot experts lie differs from layer to layer: excess and busiest rank are means over `LAYERS` draws of the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsesim import laws
from sparsesim.cost.fitted import PRIOR_HALF_WIDTH, TRANSFER_HALF_WIDTH, WIDEN_PER_OCTAVE
from sparsesim.cost.forms import FORMS
from sparsesim.cost.kernel import Cost, CostModel
from sparsesim.cost.network.collectives import spread, time_s
from sparsesim.cost.network.expert_parallel import ExpertParallel
from sparsesim.cost.network.fitted import load_kernel_fit, load_protocol
from sparsesim.cost.network.moe import LOW_LATENCY_TOK, ExpertKernel, Loads, Mode, dispatch_loads
from sparsesim.cost.network.overlap import exposed
from sparsesim.cost.network.placement import Placement
from sparsesim.cost.network.routing import Routing
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology import Fabric, Topology, load_topology, own_topology
from sparsesim.model.arch import Model
from sparsesim.model.blocks.moe import Moe
from sparsesim.model.load import ExpertLoad
from sparsesim.model.setting import Setting
from sparsesim.work import Collective, MoeCombine, MoeDispatch, MoeFfn, Op, Task

LAYERS = 8
"""Draws of the expert load: the mean of the busiest rank over 8 layers of zipf 0.8 stays within 5 % of that over 64."""

ISLAND, DOMAIN = "h800-deepep", "gb200-nvl72"
"""Fits of dispatch and combine: on nodes of up to eight joined by NICs, and inside larger NVLink domains."""
ISLAND_GPUS = 8
LIBRARY = "h100-nccl"
"""Fit of what a communication library achieves of nominal bandwidths."""
MEASURED_NODES = 8
"""Nodes up to which `ISLAND` was measured; beyond, the interval widens by half per doubling (facts: kernel forms)."""

Groups = Mapping[tuple[int, int], tuple[ExpertParallel, ...]]


def expert_groups(
    model: Model, setting: Setting, placement: Placement, load: ExpertLoad, gpus_per_node: int, draws: int = LAYERS
) -> dict[tuple[int, int], tuple[ExpertParallel, ...]]:
    """Expert-parallel groups of `draws` layers, by (experts, top_k); none where experts are not spread over ranks.

    Raises:
        InputError: the placement does not fill the expert ranks, or the ranks do not fill the nodes.

    """
    if setting.ep == 1:
        return {}
    ways = setting.ranks // setting.ep
    blocks = {(block.experts, block.working_top_k): block for block, _ in model.blocks if isinstance(block, Moe)}
    return {
        key: _layers(_routings(load, *key, block.groups, block.groups_kept, draws),
                     placement, setting.ep, gpus_per_node, ways)
        for key, block in blocks.items()
    }  # fmt: skip


@lru_cache(maxsize=64)
def _routings(
    load: ExpertLoad, experts: int, top_k: int, groups: int, groups_kept: int, draws: int
) -> tuple[Routing, ...]:
    """Routings of `draws` layers; the same for every layout of a model, which a plan asks for by the hundred."""
    limit = groups_kept if groups > 1 else 0
    try:
        chances = [laws.inclusion_probabilities(popularity, top_k) for popularity in load.sampled(experts, draws)]
    except ValueError as error:
        raise InputError(Problem(f"{load.word()}: {error}", path="expert_load")) from None
    return tuple(Routing(chosen, top_k, groups, limit) for chosen in chances)


@lru_cache(maxsize=256)
def _layers(
    routings: tuple[Routing, ...], placement: Placement, ep: int, gpus_per_node: int, ways: int
) -> tuple[ExpertParallel, ...]:
    """Layers of experts placed on ranks."""
    return tuple(ExpertParallel(one, placement.place(one.chosen, ep), gpus_per_node, ways) for one in routings)


@dataclass(frozen=True)
class _Kernel:
    """A dispatch or combine kernel on the fabric at hand, and how far to trust it."""

    kernel: ExpertKernel
    half_width: float
    kernel_class: str
    provenance: str


@dataclass(frozen=True)
class SharedExperts:
    """The experts that every token passes through, as work behind which a dispatch hides."""

    model: Model
    setting: Setting

    def tasks(self, op: MoeDispatch) -> list[Task]:
        """Their kernels for the tokens of a dispatch."""
        key = (op.experts, op.top_k)
        block = next(b for b, _ in self.model.blocks if isinstance(b, Moe) and (b.experts, b.working_top_k) == key)
        tasks = block.shared_tasks(op.tokens * self.setting.tp, self.model.d_model, self.setting)
        return [task for task in tasks if not isinstance(task.op, Collective)]


@dataclass(frozen=True)
class PlacedCosts(CostModel):
    """A `CostModel` that knows the fabric and where experts lie; `shared` are computed during the dispatch."""

    fabric: Fabric
    groups: Groups
    shared: SharedExperts | None = None

    def cost(self, op: Op) -> Cost:
        """As the plain model, with skew, placement and oversubscription."""
        if isinstance(op, MoeDispatch) and self.shared is not None:
            return self._exposed(self._routed(op), self.shared.tasks(op))
        if isinstance(op, MoeDispatch | MoeCombine):
            return self._routed(op)
        if isinstance(op, MoeFfn) and op.ep > 1:
            return super().cost(self._busiest(op))
        if isinstance(op, Collective):
            return self._collective(op)
        return super().cost(op)

    @property
    def routed(self) -> tuple[ExpertParallel, ...]:
        """The groups of a model whose layers all have the same experts."""
        return next(iter(self.groups.values()), ())

    def _collective(self, op: Collective) -> Cost:
        """Beyond the fitted form what the fabric changes: an oversubscribed spine, switches that add up.

        The difference of the fastest algorithms with and without; ranks that do not fill nodes evenly have none.
        """
        even, plain = (
            super().cost(op),
            replace(self.fabric, oversubscription=1.0, penalty=1.0, in_switch_reduction=False),
        )
        ranks, nodes = (round(float(np.max(np.asarray(n)))) for n in (op.gpus, op.nodes))
        if plain == self.fabric or ranks == 1 or ranks % nodes:
            return even
        own, level = (
            time_s(op.op, np.asarray(op.bytes, np.float64), spread(ranks, fabric, nodes), load_protocol(LIBRARY))
            for fabric in (self.fabric, plain)
        )
        time = np.where(even.time_s > 0, np.maximum(even.time_s + own - level, own), 0.0)
        return replace(even, time_s=time, static_j=self.power.static_w * time)

    def _exposed(self, dispatch: Cost, behind: list[Task]) -> Cost:
        """What kernels that run meanwhile leave of a dispatch."""
        hidden = sum((task.count * super(PlacedCosts, self).cost(task.op).time_s for task in behind), np.zeros(()))
        time = np.asarray(exposed(dispatch.time_s, hidden))
        return replace(dispatch, time_s=time, static_j=self.power.static_w * time)

    def _group(self, op: MoeDispatch | MoeCombine | MoeFfn) -> tuple[ExpertParallel, ...]:
        key = (op.experts, op.top_k)
        if key not in self.groups:
            raise InputError(
                Problem(f"{op.op} routes {op.top_k} of {op.experts} experts, which no layer of the model does")
            )
        return self.groups[key]

    def _routed(self, op: MoeDispatch | MoeCombine) -> Cost:
        if self.fit.of(op.op) is not None:
            return self._lengthened(op)
        nodes = len(self._group(op)[0].visits.node)
        many = np.asarray(op.tokens) > LOW_LATENCY_TOK
        if nodes > 1 and (op.mode == "throughput" or many.all()):
            return self._by_kernel(op, nodes, self._by_node(op))
        direct = self._by_kernel(op, nodes, self._published(op, nodes))
        if nodes == 1 or not many.any():
            return direct
        return _where(many, self._by_kernel(op, nodes, self._by_node(op)), direct)

    def _published(self, op: MoeDispatch | MoeCombine, nodes: int) -> _Kernel:
        """Fitted to published rows, on this fabric."""
        fit = load_kernel_fit(DOMAIN if nodes == 1 and self.fabric.gpus_per_node > ISLAND_GPUS else ISLAND)
        nominal = load_topology(fit.topology).fabric()
        kernel = (fit.dispatch if isinstance(op, MoeDispatch) else fit.combine).on(self.fabric, nominal)
        width = fit.half_width + WIDEN_PER_OCTAVE * float(np.log2(max(nodes / MEASURED_NODES, 1.0)))
        width += 0.0 if self.gpu.name.split("-")[0] in fit.name else TRANSFER_HALF_WIDTH
        return _Kernel(kernel, width, f"{op.op}.{fit.name}", f"published, fitted as {fit.name}")

    def _by_node(self, op: MoeDispatch | MoeCombine) -> _Kernel:
        """One copy a node: nothing published was fitted, the form's own start stands."""
        assumed = {parameter.name: parameter.start for parameter in FORMS[op.op].parameters}
        kernel = ExpertKernel(
            mode="throughput",
            fixed_s=assumed["a_rdma"],
            per_doubling_s=assumed["rail"],
            link_bytes_per_s=assumed["link"] * self.fabric.link_bytes_per_s,
            nic_bytes_per_s=assumed["nic"] * self.fabric.nic_bytes_per_s,
        )
        return _Kernel(kernel, PRIOR_HALF_WIDTH, f"{op.op}.throughput", "assumed")

    def _by_kernel(self, op: MoeDispatch | MoeCombine, nodes: int, by: _Kernel) -> Cost:
        kernel, each = by.kernel, [self._loads(op, group, by.kernel.mode) for group in self._group(op)]
        tokens = np.asarray(op.tokens, dtype=np.float64)
        transfer = tokens * float(np.mean([kernel.transfer_s(loads, self.fabric) for loads in each]))
        time = np.where(tokens > 0, kernel.of_transfer_s(transfer, nodes), 0.0)
        sent = float(np.mean([loads.link_out.sum() + loads.nic_out.sum() for loads in each]))
        joules = float(np.mean([loads.energy_j(self.fabric) for loads in each]))
        ranks = float(np.max(np.asarray(op.ranks)))
        return replace(
            super().cost(op),
            time_s=time,
            link_j=tokens * joules / ranks,
            static_j=self.power.static_w * time,
            half_width=np.full(time.shape, by.half_width),
            link_bytes=tokens * sent / ranks,
            kernel_class=by.kernel_class,
            provenance=by.provenance,
        )

    def _loads(self, op: MoeDispatch | MoeCombine, group: ExpertParallel, mode: Mode) -> Loads:
        """Of one token per rank."""
        size = float(np.max(np.asarray(op.token_bytes())))
        loads = dispatch_loads(1.0, group.visits, size, self.fabric, mode)
        return loads if isinstance(op, MoeDispatch) else loads.reversed()

    def _lengthened(self, op: MoeDispatch | MoeCombine) -> Cost:
        even = super().cost(op)
        extra = self.extra_s_per_token(op) * np.asarray(op.tokens, dtype=np.float64)
        time = even.time_s + extra
        return replace(even, time_s=time, static_j=self.power.static_w * time)

    def extra_s_per_token(self, op: MoeDispatch | MoeCombine) -> float:
        """Seconds per token and rank beyond the even closed form."""
        mode: Mode = "low_latency" if op.mode == "low_latency" else "throughput"
        size = float(np.max(np.asarray(op.token_bytes())))
        flat = replace(self.fabric, oversubscription=1.0, penalty=1.0)
        excess = []
        for group in self._group(op):
            own = dispatch_loads(1.0, group.visits, size, self.fabric, mode).transfer_s(self.fabric)
            even = dispatch_loads(1.0, group.even.visits, size, flat, mode).transfer_s(flat)
            excess.append(max(max(own) - max(even), 0.0))
        return float(np.mean(excess))

    def _busiest(self, op: MoeFfn) -> MoeFfn:
        """The busiest rank's kernel as an even one over the slots."""
        groups = self._group(op)
        factor = float(np.mean([group.imbalance.max() for group in groups]))
        return replace(op, tokens=op.tokens * factor, experts=groups[0].slots, load="uniform")


def _where(mask: NDArray[np.bool_], one: Cost, other: Cost) -> Cost:
    """Rows of one cost where the mask holds, else of the other."""
    words = ("kernel_class", "provenance")
    values: dict[str, Any] = {n: f"{getattr(other, n)} | {getattr(one, n)}" for n in words}
    for name in Cost.__dataclass_fields__.keys() - values.keys():
        values[name] = np.where(mask, getattr(one, name), getattr(other, name))
    return Cost(**values)


def placed_costs(
    costs: CostModel, model: Model, setting: Setting, topology: Topology, placement: Placement, load: ExpertLoad
) -> PlacedCosts:
    """The cost model of a replica of `model` on a topology.

    Raises:
        InputError: the topology has no islands (ring, torus, mesh, custom: `detail: op` runs on those), is smaller than
            the replica, or the placement does not fill the ranks.

    """
    fabric = topology.fabric()
    if setting.ranks * setting.pp > topology.devices:
        have = f"a topology of {topology.devices}"
        raise InputError(
            Problem(f"{setting.ranks * setting.pp} devices of a replica on {have}", path="deployment.topology")
        )
    chip = replace(
        costs.chip,
        link_bytes_per_s=fabric.link_bytes_per_s,
        link_s=fabric.hop_s,
        nic_bytes_per_s=fabric.nic_bytes_per_s / fabric.gpus_per_nic or costs.chip.nic_bytes_per_s,
        nic_s=fabric.rdma_s or costs.chip.nic_s,
        gpus_per_node=fabric.gpus_per_node,
    )
    nic_j = fabric.nic_j_per_byte or costs.power.nic_j_per_byte
    power = replace(costs.power, link_j_per_byte=fabric.link_j_per_byte, nic_j_per_byte=nic_j)
    groups = expert_groups(model, setting, placement, load, fabric.gpus_per_node)
    return PlacedCosts(costs.gpu, chip, costs.fit, power, fabric, groups)


def deployed_costs(
    costs: CostModel,
    model: Model,
    setting: Setting,
    topology: Topology | None,
    placement: Placement,
    load: ExpertLoad,
    overlap_shared: bool = False,
) -> CostModel:
    """The cost model for a scenario's keys: `topology` (None: the hardware's own node), `placement`, `expert_load`.

    On the hardware's own node, with experts that are not spread over ranks, it is returned as it is.

    Raises:
        InputError: what does not fit together, or would change nothing.

    """
    devices = setting.ranks * setting.pp
    spread = setting.ep > 1 and any(isinstance(block, Moe) for block, _ in model.blocks)
    if placement.kind != "contiguous" and not spread:
        why = f"{model.name} with ep {setting.ep} spreads no experts over ranks"
        raise InputError(Problem(f"{placement.kind}: {why}", path="deployment.placement", hint="ep above 1"))
    if devices == 1 and topology is not None:
        raise InputError(Problem("a replica of one device has nothing to link", path="deployment.topology"))
    dispatched = spread and setting.dp > 1 and any(isinstance(b, Moe) and b.shared_d_ff for b, _ in model.blocks)
    if overlap_shared and not dispatched:
        why = f"{model.name} with dp {setting.dp}, ep {setting.ep} has no shared experts beside a dispatch"
        raise InputError(Problem(why, path="deployment.overlap.shared_experts", hint="dp and ep above 1"))
    if topology is None and not spread:
        return costs
    placed = placed_costs(costs, model, setting, topology or own_topology(costs.gpu, devices), placement, load)
    return replace(placed, shared=SharedExperts(model, setting)) if overlap_shared else placed


def redundant_slots(model: Model, placement: Placement, ep: int) -> int:
    """Slots that a placement has beyond one per expert: `Setting.redundant`.

    Raises:
        InputError: layers with different numbers of experts would need different ones.

    """
    numbers = sorted({block.experts for block, _ in model.blocks if isinstance(block, Moe)}) if ep > 1 else []
    beyond = {placement.slots(experts, ep) - experts for experts in numbers}
    if len(beyond) > 1:
        shown = f"layers of {', '.join(map(str, numbers))} experts do not fill ep {ep} alike"
        raise InputError(Problem(f"{placement.kind}: {shown}", path="deployment.placement"))
    return max(beyond, default=0)
