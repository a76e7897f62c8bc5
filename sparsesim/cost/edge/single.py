"""One step of one GPU at batch 1, priced straight from the model's tasks."""

from __future__ import annotations

from dataclasses import dataclass

from sparsesim.cost.accumulate import Floats, Overhead, finished, price, totals
from sparsesim.cost.kernel import CostModel
from sparsesim.hardware.engine import Engine
from sparsesim.model.arch import Batch, Chunk, Model
from sparsesim.model.setting import Precision, Setting


@dataclass(frozen=True, slots=True)
class Single:
    """A model in one precision on one device under one engine."""

    model: Model
    precision: Precision
    costs: CostModel
    engine: Engine

    def decode(self, context_tok: float) -> Floats:
        """Seconds and joules by component of one token after `context_tok` others, [5]."""
        return self._values(Batch(decode=1.0, context=context_tok), 1.0)

    def prefill(self, prompt_tok: float) -> Floats:
        """The same of a whole prompt, its first output token sampled."""
        return self._values(Batch(chunks=(Chunk(prompt_tok, prompt_tok),), sampled=1.0), prompt_tok)

    def _values(self, batch: Batch, tokens: float) -> Floats:
        setting = Setting(precision=self.precision, fused=self.engine.fused)
        tasks = [task for task in self.model.tasks(batch, setting) if _sized(task.op, batch)]
        total = totals(price(tasks, self.costs))
        overhead = Overhead(
            host_s=self.engine.host_s(1.0, self.model.vocab),
            sampling_s=self.engine.sampling_s(1.0, self.model.vocab),
            sampling_w=self.costs.streaming_w,
            graph=tokens <= self.engine.graph_tok.value,
        )
        return finished(total, overhead, self.engine, self.costs.power)


def _sized(op: object, batch: Batch) -> bool:
    """Tasks of no sequence (decode in a prefill step) ask for nothing."""
    return float(getattr(op, "batch", 1.0)) > 0.0 if not batch.decode else True
