"""What a verify step of speculative decoding costs: the drafts, then k + 1 tokens of every sequence at once.

Attention reads a sequence's cache once for all its k + 1 queries; everything else is sized by (k + 1) tokens a
sequence. Drafts come one after another, from the model's multi-token-prediction modules or a draft model. What a
draft model's prompts cost is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsesim.cost.accumulate import Floats
from sparsesim.cost.tables import BATCH_ROWS, StepTables
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting
from sparsesim.work import Array, Task


@dataclass(frozen=True)
class VerifyTables(StepTables):
    """`StepTables` whose decoding sequences verify `draft_tok` tokens, drafted by `draft` (None: the model's own)."""

    draft_tok: int = 1
    draft: Model | None = None

    @property
    def width(self) -> int:
        """Tokens of a decoding sequence in a step."""
        return self.draft_tok + 1

    def _fill(self, first: int) -> None:
        held = np.arange(first, first + BATCH_ROWS, dtype=float)
        shape = (len(held), len(self.knots))
        sequences, context = held[:, None], self.knots[None, :]
        parts = self.model.decode_by_window(sequences * self.width, context, self.setting)
        whole = {window: [self._verified(task, sequences) for task in tasks] for window, tasks in parts.items()}
        widest = self.windows[0]
        whole[widest] = [*whole[widest], *self.draft_tasks(sequences, context)]
        fixed = self._totals(whole.get(0.0, []), shape)
        by_window = {w: self._totals(whole[w], shape) for w in self.windows}
        for row, number in enumerate(held):
            self._decode[int(number)] = (fixed[row, 0], {w: t[row] for w, t in by_window.items()})

    def _verified(self, task: Task, sequences: Floats) -> Task:
        """An attention with all queries of a sequence; other tasks are sized by tokens already."""
        if not hasattr(task.op, "q_tok"):
            return task
        return replace(task, op=replace(task.op, batch=sequences, q_tok=float(self.width)))  # type: ignore[call-arg]

    def draft_tasks(self, sequences: Array, context: Array) -> list[Task]:
        """All drafts of a step."""
        if self.draft is None:
            tasks, times = (
                self.model.mtp_tasks(sequences, context, self.setting),
                self.draft_tok / self.model.mtp_layers,
            )
        else:
            own, times = draft_setting(self.draft, self.setting), float(self.draft_tok)
            tasks = self.draft.token_tasks(sequences, own) + self.draft.head_tasks(sequences, own)
            tasks += self.draft.decode_tasks(sequences, context, own)
        return [replace(task, count=task.count * times) for task in tasks]


def draft_setting(draft: Model, setting: Setting) -> Setting:
    """A draft model is split over the same ranks, in its own precision."""
    return Setting(
        tp=setting.tp,
        dp=setting.dp,
        gpus_per_node=setting.gpus_per_node,
        precision=draft.precision,
        fused=setting.fused,
    )


def draft_bytes(model: Model, draft: Model | None, setting: Setting) -> float:
    """Weights that drafting adds to a device; multi-token-prediction modules are spread over all ranks."""
    if draft is not None:
        return draft.device_weight_bytes(draft_setting(draft, setting))
    return model.mtp_parameters() * setting.precision.weight_bytes_each(setting.precision.weights) / setting.ranks


def draft_kv_by_window(model: Model, draft: Model | None, setting: Setting) -> dict[float, float]:
    """Cache bytes per token of what drafts, on one of tp ranks, by the window of its layers."""
    if draft is not None:
        return draft.kv_by_window(draft.precision, setting.tp)
    sizes: dict[float, float] = {}
    for block in model.mtp:
        own = model.mtp_layers * block.kv_bytes_per_token(setting.precision, setting.tp)
        sizes[block.kv_window] = sizes.get(block.kv_window, 0.0) + own
    return sizes


def draft_kv_share(model: Model, draft: Model | None, setting: Setting) -> float:
    """KV that drafting adds to a token's, as a share of the model's own."""
    own = model.kv_bytes_per_token(setting.precision, setting.tp)
    return sum(draft_kv_by_window(model, draft, setting).values()) / own
