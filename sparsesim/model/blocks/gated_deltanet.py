"""Gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next: delta rule with one decay per value head."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class GatedDeltanet(Recurrent):
    """`key_heads` queries and keys, shared by groups of `value_heads`; a state of key_dim x value_dim each."""

    key_heads: int = Field(ge=1, description="query and key heads")
    value_heads: int = Field(ge=1, description="value heads")
    key_dim: int = Field(ge=1, description="width of a key")
    value_dim: int = Field(ge=1, description="width of a value")

    def cells(self, tp: int = 1) -> Cells:
        """Both kinds of heads split."""
        heads, groups = split(self.value_heads, tp, "value heads"), split(self.key_heads, tp, "key heads")
        return Cells("gdn", heads, self.value_dim, self.key_dim, groups)

    def conv_width(self, tp: int = 1) -> int:
        """Queries, keys and values."""
        cells = self.cells(tp)
        return 2 * cells.groups * self.key_dim + cells.heads * self.value_dim

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Queries, keys, values, gate, beta and decay; output. Convolution, A, dt bias and head norm are kept."""
        cells, conv = self.cells(tp), self.conv_width(tp)
        values = cells.heads * self.value_dim
        linear = d_model * (conv + values + 2 * cells.heads + values)
        return Weights(linear=linear, kept=conv * self.conv + 2 * cells.heads + self.value_dim)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections and the gated norm of the heads' outputs."""
        cells = self.cells(setting.tp)
        values = cells.heads * self.value_dim
        tasks = emit.linear("ssm.qkvz", tokens, d_model, self.conv_width(setting.tp) + values, setting)
        tasks += emit.linear("ssm.ba", tokens, d_model, 2 * cells.heads, setting)
        tasks += emit.gated_activation("ssm.gate", tokens, values, setting, "silu")
        tasks += emit.linear("ssm.out", tokens, values, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
