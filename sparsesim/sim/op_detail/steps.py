"""`detail: op` in a serving simulation: step costs corrected by op-by-op simulations of steps of their size.

Kernel times of an iteration are stretched by the ratio of the simulated step to its closed form, at numbers of tokens
a rank that are powers of two, interpolated between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsesim.cost.accumulate import price
from sparsesim.cost.curve import DecodeCurve
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.network.placed import PlacedCosts
from sparsesim.cost.step import ReplicaSteps
from sparsesim.model.arch import Batch, Chunk
from sparsesim.sim.disturbances import Disturbances
from sparsesim.sim.op_detail.step import Cluster, StepDetail, halved, layer_tasks, simulate_step
from sparsesim.work import MoeFfn, Op, Task
from sparsesim.work.collective import COLLECTIVES

Phase = Literal["prefill", "decode"]
RATIO_DIGITS = 4
"""Ratios are told apart to a ten-thousandth, so that few curves are kept."""


@dataclass(frozen=True, eq=False)
class DetailedSteps:
    """A `StepModel` whose kernel times follow op-by-op simulations on a cluster.

    Attributes:
        steps: the closed form.
        cluster: what the ranks share.
        prompt_tok: of a typical prompt.
        context_tok: that a typical decoding sequence attends to.
        overlap_shared: shared experts run while tokens are dispatched.
        two_batch: batches run as two halves.
        disturbances: slow ranks and jitter; those of links are in the cluster.
        seed: of the jitter.

    """

    steps: ReplicaSteps
    cluster: Cluster
    prompt_tok: float
    context_tok: float
    overlap_shared: bool = False
    two_batch: bool = False
    disturbances: Disturbances = Disturbances()
    seed: int = 0
    _ratios: dict[tuple[Phase, int], float] = field(default_factory=dict, repr=False)
    _kept: dict[float, ReplicaSteps] = field(default_factory=dict, repr=False)

    @property
    def components(self) -> tuple[str, ...]:
        """Of the energy."""
        return self.steps.components

    @property
    def windows(self) -> tuple[float, ...]:
        """Distinct attention windows, the widest first."""
        return self.steps.windows

    @property
    def idle_w(self) -> float:
        """All devices at low clocks."""
        return self.steps.idle_w

    @property
    def active_idle_w(self) -> float:
        """All devices at full clocks with nothing to do."""
        return self.steps.active_idle_w

    def decode(self, sequences: int) -> DecodeCurve:
        """A step in which every one of `sequences` gets a token."""
        return self._stretched("decode", math.ceil(sequences / self.steps.setting.dp)).decode(sequences)

    def mixed(
        self, decode: int, contexts: tuple[float, ...], chunks: Sequence[tuple[int, int]], sampled: int
    ) -> Sequence[float]:
        """A step with prompt chunks."""
        tokens = math.ceil((decode + sum(q for q, _ in chunks)) / self.steps.setting.dp)
        return self._stretched("prefill", tokens).mixed(decode, contexts, chunks, sampled)

    def _stretched(self, phase: Phase, tokens: int) -> ReplicaSteps:
        ratio = round(self.ratio(phase, tokens), RATIO_DIGITS)
        if ratio not in self._kept:
            self._kept[ratio] = replace(self.steps, stretch=self.steps.stretch * ratio, _curves={})
        return self._kept[ratio]

    def ratio(self, phase: Phase, tokens: int) -> float:
        """Simulated over closed-form kernel time at `tokens` tokens a rank."""
        low = 2 ** int(math.log2(tokens))
        beyond = math.log2(tokens / low)
        first = self._simulated(phase, low)
        return first if beyond == 0.0 else first + beyond * (self._simulated(phase, 2 * low) - first)

    def _simulated(self, phase: Phase, tokens: int) -> float:
        if (phase, tokens) not in self._ratios:
            batch = self.batch(phase, tokens)
            self._ratios[phase, tokens] = self.simulated(batch).timeline.end_s / self.closed_form_s(batch)
        return self._ratios[phase, tokens]

    def batch(self, phase: Phase, tokens: int) -> Batch:
        """A typical batch of one rank."""
        if phase == "decode":
            return Batch(decode=float(tokens), context=self.context_tok)
        prompt = min(max(round(self.prompt_tok), 1), tokens)
        return Batch(chunks=(Chunk(prompt, prompt, tokens / prompt),), sampled=tokens / prompt)

    def simulated(self, batch: Batch) -> StepDetail:
        """A step op by op; where hot experts lie is that of the first draw in every layer."""
        costs = self.steps.costs
        return simulate_step(
            self.steps.model,
            self.steps.setting,
            batch,
            self._kernel_s,
            self.cluster,
            {key: groups[0] for key, groups in costs.groups.items()} if isinstance(costs, PlacedCosts) else {},
            overlap_shared=self.overlap_shared,
            two_batch=self.two_batch,
            routed=True,
            change=self.disturbances.change(self.steps.setting.ranks, self.seed),
        )

    def _kernel_s(self, op: Op) -> NDArray[np.float64]:
        """Seconds of an op, dispatch and combine with their skew, experts with even routing."""
        if isinstance(op, MoeFfn):
            return CostModel.cost(self.steps.costs, op).time_s
        return self._first_draw(hidden=False).cost(op).time_s

    def _first_draw(self, *, hidden: bool) -> CostModel:
        costs = self.steps.costs
        if not isinstance(costs, PlacedCosts):
            return costs
        first = {key: groups[:1] for key, groups in costs.groups.items()}
        return replace(costs, groups=first, shared=costs.shared if hidden else None)

    def closed_form_s(self, batch: Batch) -> float:
        """Kernel time of the same step in closed form."""
        if not self.two_batch:
            return self._summed_s(batch, COLLECTIVES) + self._summed_s(batch, COLLECTIVES, others=True)
        half = halved(batch)
        return 2.0 * max(self._summed_s(half, COLLECTIVES), self._summed_s(half, COLLECTIVES, others=True))

    def _summed_s(self, batch: Batch, kinds: tuple[type[Op], ...], *, others: bool = False) -> float:
        tasks: list[Task] = layer_tasks(self.steps.model, batch, self.steps.setting)
        chosen = [task for task in tasks if isinstance(task.op, kinds) is not others]
        return sum(p.task.count * float(p.cost.time_s) for p in price(chosen, self._first_draw(hidden=True)))
