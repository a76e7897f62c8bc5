"""Kimi Delta Attention (Kimi-Linear, arXiv 2510.26692): delta rule with a decay per key channel."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class Kda(Recurrent):
    """`heads` of width head_dim for queries, keys and values; decay and output gate through rank head_dim."""

    heads: int = Field(ge=1, description="heads")
    head_dim: int = Field(ge=1, description="width of a head")

    def cells(self, tp: int = 1) -> Cells:
        """Every head has its own keys."""
        heads = split(self.heads, tp, "KDA heads")
        return Cells("kda", heads, self.head_dim, self.head_dim, heads)

    def conv_width(self, tp: int = 1) -> int:
        """Queries, keys and values."""
        return 3 * split(self.heads, tp, "KDA heads") * self.head_dim

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Queries, keys, values, beta, low-rank decay and gate, output; the rest is kept."""
        heads = split(self.heads, tp, "KDA heads")
        width = heads * self.head_dim
        low_rank = 2 * (d_model * self.head_dim + self.head_dim * width)
        linear = d_model * (4 * width + heads) + low_rank
        return Weights(linear=linear, kept=self.conv_width(tp) * self.conv + heads + width + self.head_dim)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections, decay, and the gated norm of the heads' outputs."""
        heads = split(self.heads, setting.tp, "KDA heads")
        width = heads * self.head_dim
        tasks = emit.linear("ssm.qkv", tokens, d_model, 3 * width, setting)
        tasks += emit.linear("ssm.beta", tokens, d_model, heads, setting)
        for name in ("decay", "gate"):
            tasks += emit.linear(f"ssm.{name}_down", tokens, d_model, self.head_dim, setting)
            tasks += emit.linear(f"ssm.{name}_up", tokens, self.head_dim, width, setting)
        tasks.append(emit.pointwise("ssm.decay", "activation", tokens, width, setting))
        tasks += emit.gated_activation("ssm.gate", tokens, width, setting, "sigmoid")
        tasks += emit.linear("ssm.out", tokens, width, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
