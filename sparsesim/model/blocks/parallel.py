"""Mixers side by side in one residual block, as attention and Mamba-2 in Falcon-H1 (arXiv 2507.22448)."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.weights import State, Weights
from sparsesim.work import Array, Task


class Parallel(Block):
    """Branches read the same normalised input and their outputs are summed; norms of the branches are not used."""

    branches: tuple[Block, ...] = Field(min_length=2, description="blocks side by side")
    branch_norms: int = Field(0, ge=0, description="further norms of width d_model around branches (Gemma-4: 3)")

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Of all branches."""
        norms = Weights(kept=self.branch_norms * d_model)
        return sum((branch.weights(d_model, tp) for branch in self.branches), norms)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Of all branches."""
        norms = [t for _ in range(self.branch_norms) for t in emit.norm("parallel.norm", tokens, d_model, setting)]
        own = [task for branch in self.branches for task in branch.own_token_tasks(tokens, d_model, setting)]
        return [*norms, *own]

    def kv_elements_per_token(self, tp: int = 1) -> int:
        """Of all branches."""
        return sum(branch.kv_elements_per_token(tp) for branch in self.branches)

    def kv_bytes_per_token(self, precision: Precision, tp: int = 1) -> float:
        """Of all branches."""
        return sum(branch.kv_bytes_per_token(precision, tp) for branch in self.branches)

    @property
    def kv_window(self) -> float:
        """The longest among branches with a cache."""
        windows = [branch.kv_window for branch in self.branches if branch.kv_elements_per_token()]
        return max(windows, default=float("inf"))

    def state_elements(self, tp: int = 1) -> State:
        """Of all branches."""
        return sum((branch.state_elements(tp) for branch in self.branches), State())

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """Of all branches."""
        merged: dict[float, list[Task]] = {}
        for branch in self.branches:
            for window, tasks in branch.decode_by_window(sequences, kv_tok, setting).items():
                merged.setdefault(window, []).extend(tasks)
        return merged

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Of all branches."""
        return [task for branch in self.branches for task in branch.chunk_tasks(sequences, q_tok, kv_tok, setting)]
