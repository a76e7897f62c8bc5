"""One step of a model on a cluster, op by op: the bridge from layers and a cost function to programs of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from sparsesim.cost.network.expert_parallel import ExpertParallel
from sparsesim.cost.network.layout import Layout
from sparsesim.cost.network.moe import mode_of, traffic_matrix
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology import Routes
from sparsesim.model.arch import Batch, Model
from sparsesim.model.blocks.base import Block
from sparsesim.model.setting import Setting
from sparsesim.sim.op_detail.engine import Transfer, simulate_ops
from sparsesim.sim.op_detail.exchanges import Exchanges
from sparsesim.sim.op_detail.program import (
    Exchange,
    Local,
    Program,
    expected_s,
    program,
    shared_during_dispatch,
)
from sparsesim.sim.op_detail.timeline import Timeline
from sparsesim.work import Collective, MoeCombine, MoeDispatch, MoeFfn, Op, Send, Task

Floats = NDArray[np.float64]
KernelTime = Callable[[Op], float | Floats]
Experts = Mapping[tuple[int, int], ExpertParallel]


@dataclass(frozen=True, eq=False)
class Cluster:
    """What the ranks share: the routed network (the first tp*dp devices hold the ranks), and each one's memory.

    `in_switch`: the nodes' switches add up, so that an all-reduce inside a node sends less.
    """

    routes: Routes
    gpus_per_node: int
    memory_bytes_per_s: float
    in_switch: bool = False


@dataclass(frozen=True, eq=False)
class StepDetail:
    """A simulated step: what happened, and the closed form of its programs alone."""

    timeline: Timeline
    programs: tuple[Program, ...]
    expected_s: float


def layer_tasks(model: Model, batch: Batch, setting: Setting) -> list[Task]:
    """Tasks in the order of layers, each layer's `count` being how many equal ones follow each other.

    A block's attention over cached tokens comes before its projections, so that exchanges end the block; shared
    experts come directly after the dispatch.
    """
    tasks: list[Task] = []
    layer = 0
    for group in model.layers:
        own = [_layer_setting(model, setting, layer + i) for i in range(group.count)]
        layer += group.count
        for layer_setting, run in groupby(own):
            one = [task for block in group.blocks for task in _block_tasks(block, model, batch, layer_setting)]
            count = len(list(run))
            tasks += [task.times(count) for task in _shared_first(one)]
    sampled = batch.decode if batch.sampled is None else batch.sampled
    return tasks + (model.head_tasks(sampled, setting) if np.any(np.asarray(sampled) > 0) else [])


def _layer_setting(model: Model, setting: Setting, layer: int) -> Setting:
    if setting.sparsity is None:
        return setting
    return replace(setting, layer_sparsity=setting.sparsity.layer(layer, model.layer_count))


def _block_tasks(block: Block, model: Model, batch: Batch, setting: Setting) -> list[Task]:
    tasks: list[Task] = []
    if np.any(np.asarray(batch.decode) > 0):
        tasks += [t for part in block.decode_by_window(batch.decode, batch.context, setting).values() for t in part]
    for chunk in batch.chunks:
        tasks += block.chunk_tasks(chunk.count, chunk.q_tok, chunk.kv_tok, setting)
    return tasks + block.token_tasks(batch.tokens, model.d_model, setting)


def _shared_first(tasks: list[Task]) -> list[Task]:
    """Kernels of shared experts moved to directly after the dispatch, where there is one."""
    at = next((i for i, task in enumerate(tasks) if isinstance(task.op, MoeDispatch)), None)
    if at is None:
        return tasks
    moved = [t for t in tasks[at:] if "shared" in t.part and not isinstance(t.op, Collective)]
    kept = [t for t in tasks[at + 1 :] if not any(t is m for m in moved)]
    return [*tasks[: at + 1], *moved, *kept]


def simulate_step(
    model: Model,
    setting: Setting,
    batch: Batch,
    kernel_s: KernelTime,
    cluster: Cluster,
    experts: Experts | None = None,
    *,
    overlap_shared: bool = False,
    two_batch: bool = False,
    routed: bool = False,
    change: Callable[[Program], Program] | None = None,
    background: Sequence[Transfer] = (),
) -> StepDetail:
    """One step of a replica, every op of every rank.

    Args:
        model: whose layers run.
        setting: tp, dp, ep and precision; one pipeline stage.
        batch: of one attention-data-parallel rank.
        kernel_s: seconds of an op on one rank with even routing, arrays of tokens allowed; skew is added here, that of
            dispatch and combine not where `routed` says that their seconds have it already.
        cluster: devices and network.
        experts: the expert-parallel group of every (experts, top_k) that the model routes over.
        overlap_shared: run shared experts while the dispatch is under way.
        two_batch: split the batch in two streams, one computing while the other communicates.
        routed: dispatch and combine come with their skew.
        change: slow ranks or jitter, applied to every program.
        background: transfers that contend.

    Raises:
        InputError: pipeline stages, more ranks than devices, or routing without its group.

    """
    if setting.pp != 1:
        raise InputError(Problem(f"op detail runs one pipeline stage, not pp {setting.pp}", path="pp", hint="pp: 1"))
    if setting.ranks > cluster.routes.network.devices:
        have = cluster.routes.network.devices
        raise InputError(Problem(f"{setting.ranks} ranks (tp*dp) on a topology of {have} devices"))
    halves = [halved(batch)] * 2 if two_batch else [batch]
    costs = _StepCosts(kernel_s, cluster, setting, experts or {}, routed)
    programs = tuple(program(layer_tasks(model, part, setting), costs) for part in halves)
    if overlap_shared:
        programs = tuple(shared_during_dispatch(steps) for steps in programs)
    if change is not None:
        programs = tuple(change(steps) for steps in programs)
    capacity = cluster.routes.network.bandwidth_bytes_per_s
    timeline = simulate_ops(programs, setting.ranks, capacity, cluster.memory_bytes_per_s, background)
    alone = sum(expected_s(steps, setting.ranks, capacity) for steps in programs)
    return StepDetail(timeline, programs, alone)


def halved(batch: Batch) -> Batch:
    """Half of every kind of sequence."""
    chunks = tuple(replace(chunk, count=chunk.count / 2.0) for chunk in batch.chunks)
    sampled = None if batch.sampled is None else batch.sampled / 2.0
    return replace(batch, decode=batch.decode / 2.0, chunks=chunks, sampled=sampled)


@dataclass(frozen=True, eq=False)
class _StepCosts:
    """The cost function of a step's tasks."""

    kernel_s: KernelTime
    cluster: Cluster
    setting: Setting
    experts: Experts
    routed: bool = False
    _known: dict[str, Local | Exchange] = field(default_factory=dict)

    def __call__(self, task: Task) -> Local | Exchange:
        key = f"{task.part} {task.op!r}"
        if key not in self._known:
            self._known[key] = self._cost(task)
        return self._known[key]

    def _cost(self, task: Task) -> Local | Exchange:
        op = task.op
        if isinstance(op, MoeDispatch | MoeCombine):
            return self._exchanges(self._group(op.experts, op.top_k, task.part))(task)
        if isinstance(op, Collective | Send):
            return self._exchanges(None)(task)
        if isinstance(op, MoeFfn) and op.ep > 1:
            return Local(task.part, self._expert_s(op, task.part), float(np.max(op.hbm_bytes())))
        return Local(task.part, float(np.asarray(self.kernel_s(op))), float(np.asarray(op.hbm_bytes())))

    def _group(self, experts: int, top_k: int, part: str) -> ExpertParallel:
        group = self.experts.get((experts, top_k))
        if group is None:
            raise InputError(Problem(f"{part} routes {top_k} of {experts} experts; no expert-parallel group is given"))
        if group.devices != self.setting.ranks:
            shown = f"an expert-parallel group of {group.devices} devices"
            raise InputError(Problem(f"{part} runs on {self.setting.ranks} ranks (tp*dp), {shown} is given"))
        return group

    def _expert_s(self, op: MoeFfn, part: str) -> Floats:
        """Seconds by rank: the kernel at each rank's own number of tokens, its slots alike."""
        group = self._group(op.experts, op.top_k, part)
        tokens = np.asarray(op.tokens, dtype=np.float64) * group.imbalance
        own = replace(op, tokens=tokens, experts=group.slots, load="uniform")
        return np.asarray(self.kernel_s(own), dtype=np.float64)

    def _exchanges(self, group: ExpertParallel | None) -> Exchanges:
        setting = self.setting
        layout = Layout(devices=setting.ranks, gpus_per_node=self.cluster.gpus_per_node, tp=setting.tp, dp=setting.dp)
        groups = {setting.tp: layout.groups("tp"), setting.ranks: np.arange(setting.ranks)[None]}
        return Exchanges(
            self.cluster.routes,
            self.cluster.gpus_per_node,
            lambda op: self._alone_s(op, group),
            groups,
            setting.ranks,
            group.visits if group else None,
            in_switch=self.cluster.in_switch,
        )

    def _alone_s(self, op: Op, group: ExpertParallel | None) -> float:
        """The closed form, lengthened by what the busiest link carries more than in the even case."""
        even = float(np.asarray(self.kernel_s(op)))
        if self.routed or group is None or not isinstance(op, MoeDispatch | MoeCombine):
            return even
        return even + max(self._busiest_s(op, group) - self._busiest_s(op, group.even), 0.0)

    def _busiest_s(self, op: MoeDispatch | MoeCombine, group: ExpertParallel) -> float:
        tokens, size = float(np.asarray(op.tokens)), float(np.asarray(op.token_bytes()))
        mode = mode_of(tokens, len(group.visits.node), op.mode)
        stages = traffic_matrix(tokens, group.visits, size, self.cluster.gpus_per_node, mode)
        net = self.cluster.routes.network
        traffic = np.zeros((net.devices, net.devices))
        traffic[: group.devices, : group.devices] = np.sum(stages, axis=0)
        loads = self.cluster.routes.loads(traffic if isinstance(op, MoeDispatch) else traffic.T)
        return float((loads / net.bandwidth_bytes_per_s).max())
