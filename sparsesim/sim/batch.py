"""The decode batch of a replica as O(1) aggregates.

Between two changes of the batch every decoding sequence gains one token per iteration. So only counts and sums are
kept: how many decode, their total context, how many take a new KV block in an iteration of each residue modulo the
block size. Sequence i attends step + offset_i tokens in the iteration numbered `step`; its finishing step is known
when it joins.
"""

from __future__ import annotations

import math
import sys
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from sparsesim.sim.request import Job

if TYPE_CHECKING:
    from sparsesim.sim.replica import ReplicaSpec


class Window:
    """Sums over the batch for a finite attention window."""

    __slots__ = ("attended", "growing", "size")

    def __init__(self, size: float) -> None:
        self.size = size
        self.attended: float = 0  # sum of min(context, size) in the next iteration
        self.growing: float = 0  # sequences with context < size: tokens that the sum grows by per iteration


class Batch:
    """Counts and sums over the running requests, and the blocks they hold.

    Attributes:
        free: KV blocks not in use.
        step: iterations done.
        decoding: sequences that get a token per iteration.
        context: tokens they attend in the next iteration, summed.
        phase: blocks taken in an iteration by its number modulo the block size, twice over, so that any run of
            residues is one slice; `phased` is the sum over one round.
        finishing: heap of (finishing step, order, request); entries of requests that left are void.
        turns: heap of (step, order, request, window) at which a sequence fills a window, -1 for a KV group.
        running: requests in the batch, in order of admission.
        grows: whether decoding takes blocks; a scheduler that reserves them all at once says no.

    """

    __slots__ = (
        "block_tok", "caps", "context", "decoding", "finishing", "free", "full_groups", "grows", "joined",
        "kv_blocks", "one_group", "phase", "phased", "running", "step", "turns", "windows",
    )  # fmt: skip

    def __init__(self, spec: ReplicaSpec) -> None:
        self.kv_blocks = spec.kv_blocks
        self.block_tok = spec.block_tok
        self.windows = tuple(Window(int(w)) for w in spec.steps.windows if math.isfinite(w))
        self.full_groups = sum(math.isinf(w) for w in spec.kv_windows)
        self.caps = tuple(-(-int(w) // spec.block_tok) + 1 for w in spec.kv_windows if math.isfinite(w))
        self.one_group = self.full_groups == 1 and not self.caps
        self.running: dict[Job, None] = {}
        self.joined = 0
        self.grows = True
        self.empty()

    def empty(self) -> None:
        """Nobody runs, and every block is free."""
        self.free = self.kv_blocks
        self.step = self.decoding = self.context = self.phased = 0
        self.phase = [0] * (2 * self.block_tok)
        self.finishing: list[tuple[int, int, Job]] = []
        self.turns: list[tuple[float, int, Job, int]] = []
        self.running.clear()
        for window in self.windows:
            window.attended = window.growing = 0

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold `tokens` of one sequence, over all groups."""
        whole = -(-tokens // self.block_tok)
        if self.one_group:
            return whole
        return whole * self.full_groups + sum(min(whole, cap) for cap in self.caps)

    def grown(self, iterations: int) -> int:
        """Blocks that the decoding sequences take in the next `iterations`."""
        start = self.step % self.block_tok
        rest = iterations % self.block_tok
        return iterations // self.block_tok * self.phased + sum(self.phase[start : start + rest])

    def affordable(self, free: int) -> int:
        """Iterations until the decoding sequences have taken more than `free` blocks."""
        if not self.phased:
            return sys.maxsize
        rounds, left = divmod(free, self.phased)
        iterations = rounds * self.block_tok
        start = self.step % self.block_tok
        for need in self.phase[start : start + self.block_tok]:
            if need > left:
                break
            left -= need
            iterations += 1
        return iterations

    @property
    def used_blocks(self) -> int:
        """KV blocks in use at the latest boundary."""
        return self.kv_blocks - self.free

    def join(self, job: Job) -> None:
        """The request decodes from the next iteration on; its `target` is computed and one more token known."""
        context = job.target + 1
        step = self.step
        job.offset = offset = context - step
        job.finish_step = finish = step + job.output - job.generated
        self.joined = job.order = order = self.joined + 1
        heappush(self.finishing, (finish, order, job))
        self.decoding += 1
        self.context += context
        job.weight = weight = self.full_groups if self.grows else 0
        if self.caps or self.windows:
            weight = self._join_windows(job, context)
        job.residue = residue = (1 - offset) % self.block_tok
        phase = self.phase
        phase[residue] += weight
        phase[residue + self.block_tok] += weight
        self.phased += weight

    def _join_windows(self, job: Job, context: int) -> int:
        """Count a sequence into the windows it has not filled, and note the steps at which it will have."""
        for k, window in enumerate(self.windows):
            window.attended += min(context, window.size)
            if context < window.size:
                window.growing += 1
                heappush(self.turns, (window.size - job.offset, job.order, job, k))
        held = -(-(context - 1) // self.block_tok)
        for cap in self.caps:
            if self.grows and held < cap:
                job.weight += 1
                heappush(self.turns, (cap * self.block_tok + 1 - job.offset, job.order, job, -1))
        return job.weight

    def leave(self, job: Job) -> None:
        """The request decodes no more; its blocks are still held, and `computed` says how many tokens they hold."""
        context = self.step + job.offset
        self.decoding -= 1
        self.context -= context
        if self.windows:
            self._leave_windows(job, context)
        residue, weight, phase = job.residue, job.weight, self.phase
        phase[residue] -= weight
        phase[residue + self.block_tok] -= weight
        self.phased -= weight
        job.generated = job.output - (job.finish_step - self.step)
        job.finish_step = -1
        job.computed = context - 1
        job.blocks = self.blocks(context - 1)

    def _leave_windows(self, job: Job, context: int) -> None:
        """Count a sequence out of every window."""
        del job
        for window in self.windows:
            window.attended -= min(context, window.size)
            if context < window.size:
                window.growing -= 1

    def give_back(self, job: Job) -> None:
        """Free the blocks that the request holds."""
        self.free += job.blocks
        job.blocks = 0

    def release(self, job: Job) -> None:
        """Give back what the request holds, its place among the running ones included."""
        self.free += job.blocks
        job.blocks = 0
        del self.running[job]

    def turn(self) -> None:
        """Stop counting the sequences that have just filled a window."""
        turns, step = self.turns, self.step
        while turns and turns[0][0] <= step:
            _, order, job, k = heappop(turns)
            if job.finish_step < 0 or job.order != order:
                continue
            if k >= 0:
                self.windows[k].growing -= 1
                continue
            job.weight -= 1
            self.phase[job.residue] -= 1
            self.phase[job.residue + self.block_tok] -= 1
            self.phased -= 1
