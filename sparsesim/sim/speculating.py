"""A replica that decodes speculatively.

Its decode iterations are verify steps. KV is reserved when a request enters, for its whole length and one draft, so
decoding never runs out of blocks.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from sparsesim.sim.batch import Window
from sparsesim.sim.caching import CachingReplica
from sparsesim.sim.entering import EnteringReplica
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.request import Job, Outcome
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.sim.speculation import Speculation

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet

ROUNDING = 1e-6  # of a token: far below one, far above what float sums of a run lose


class SpeculativeReplica(EnteringReplica):
    """A continuously batching replica whose iterations verify drafts: a context grows by `rate` tokens in each.

    The window sums of the batch carry that growth, full attention being one window more; the batch's own context,
    which counts a token per iteration, is not used.
    """

    # no slots: two parents with slots of their own could not be joined below

    def __init__(self, fleet: Fleet, index: int, spec: ReplicaSpec, rules: Continuous, law: Speculation) -> None:
        self.extra_tok = law.draft_tok
        self.rates: dict[Job, float] = {}
        self.verify_steps = fleet.verify_steps(law)
        super().__init__(fleet, index, spec, rules)
        self.plain = self.grows = False
        fleet.steps.explicit.add(index)
        self.windows = tuple(Window(w if math.isinf(w) else int(w)) for w in (math.inf, *spec.steps.windows))

    def reset(self, time_s: float) -> None:
        """Nothing runs."""
        super().reset(time_s)
        self.carry = 0.0  # share of a token that the batch has made beyond the whole ones
        self.rates.clear()

    # ---- memory: everything at once

    def refusal(self, job: Job) -> Outcome | None:
        """As ever, with room for one draft."""
        found = super().refusal(job)
        if found is None and self.held_for(job, 0) > self.kv_blocks:
            return Outcome.rejected_too_large
        return found

    def held_for(self, job: Job, tokens: int) -> int:
        """Blocks for the whole request and one draft, however much of it is there."""
        del tokens
        return self.blocks(job.prompt + job.output - 1 + self.extra_tok)

    # ---- membership: by verify steps

    def join(self, job: Job) -> None:
        """Decode from the next iteration on, at the rate that brings the last token in the last verify step."""
        wanted = job.output - job.generated
        steps = math.ceil(self.verify_steps[job.row] * wanted / (job.output - 1)) if wanted else 0
        self.rates[job] = wanted / steps if steps else 0.0
        generated, job.generated = job.generated, job.output - steps
        super().join(job)
        job.generated = generated

    def attends(self, job: Job) -> float:
        """Tokens that a decoding request attends in the next iteration."""
        first = job.target + 1
        return first + (self.step + job.offset - first) * self.rates[job]

    def _join_windows(self, job: Job, context: int) -> int:
        """Count a sequence into the windows it has not filled, and note the steps at which it will have."""
        rate = self.rates[job]
        for k, window in enumerate(self.windows):
            window.attended += min(context, window.size)
            if context < window.size:
                window.growing += rate
                if rate and math.isfinite(window.size):
                    filled = self.step + math.ceil((window.size - context) / rate)
                    heappush(self.turns, (filled, job.order, job, k))
        return 0

    def turn(self) -> None:
        """Cap the sequences that have just filled a window, perhaps in the middle of a step."""
        while self.turns and self.turns[0][0] <= self.step:
            _, order, job, k = heappop(self.turns)
            if job.finish_step >= 0 and job.order == order:
                window = self.windows[k]
                window.attended -= self.attends(job) - window.size
                window.growing -= self.rates[job]

    def _leave_windows(self, job: Job, context: int) -> None:
        """Count a sequence out of every window; with nobody left every sum is nothing, whatever rounding says."""
        attended, rate = self.attends(job), self.rates[job]
        for window in self.windows:
            window.attended -= min(attended, window.size)
            if attended < window.size:
                window.growing -= rate
            if not self.decoding:
                window.attended = window.growing = 0

    def made(self, job: Job) -> int:
        """Whole output tokens of a decoding request."""
        left = max(job.finish_step - self.step, 0) * self.rates[job]
        return job.output - math.ceil(left - ROUNDING)

    def leave(self, job: Job) -> None:
        """The request decodes no more; its blocks stay reserved until it is released."""
        held, made = job.blocks, self.made(job)
        super().leave(job)
        job.blocks = held
        job.generated = made
        del self.rates[job]

    # ---- time

    def _coordinates(self) -> list[tuple[float, float]]:
        """(coordinate, growth per iteration) of every channel of the step model; one dummy where there is none."""
        n = self.decoding
        return [(window.attended / n, window.growing / n) for window in self.windows[1:]] or [(0.0, 0.0)]

    def advance(self) -> None:
        """Apply the leap or step, counting whole tokens; the row's context is what is attended, rounded."""
        whole = self.windows[0]
        made = self.carry + whole.growing * self.iterations + ROUNDING
        completed = sum(job.computed + q == job.target for job, q in self.chunks)
        self.output_tok = int(made) + completed
        self.carry = made - int(made) - ROUNDING
        self.context = round(whole.attended)
        super().advance()
        if not self.decoding:
            self.context = 0

    def _advance_windows(self, iterations: int) -> None:
        """Log and move the sums of the step model's windows, and the whole context."""
        for window in self.windows[1:]:
            self.log.window((window.attended, window.growing))
        for window in self.windows:
            window.attended += window.growing * iterations


class CachingSpeculativeReplica(SpeculativeReplica, CachingReplica):
    """Verifies drafts, with a prefix cache: of what a request reserves, the blocks that are held already are shared."""

    __slots__ = ()
