"""Lightning attention (MiniMax-01, arXiv 2501.08313): linear attention with a fixed decay per head."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class Lightning(Recurrent):
    """`heads` of width head_dim with a state of head_dim x head_dim each; no convolution."""

    conv: int = Field(0, ge=0, description="taps of the causal convolution; 0: none")
    heads: int = Field(ge=1, description="heads")
    head_dim: int = Field(ge=1, description="width of a head")

    def cells(self, tp: int = 1) -> Cells:
        """Every head has its own keys."""
        heads = split(self.heads, tp, "lightning attention heads")
        return Cells("lightning", heads, self.head_dim, self.head_dim, heads)

    def conv_width(self, tp: int = 1) -> int:
        """Queries, keys and values, where there is a convolution."""
        return 3 * split(self.heads, tp, "lightning attention heads") * self.head_dim if self.conv else 0

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Queries, keys, values, output gate, output; the norm of the output is kept."""
        width = split(self.heads, tp, "lightning attention heads") * self.head_dim
        return Weights(linear=5 * d_model * width, kept=width + self.conv_width(tp) * self.conv)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections, activation of queries, keys and values, norm and gate of the output."""
        width = split(self.heads, setting.tp, "lightning attention heads") * self.head_dim
        tasks = emit.linear("ssm.qkv", tokens, d_model, 3 * width, setting)
        tasks.append(emit.pointwise("ssm.activation", "activation", tokens, 3 * width, setting))
        tasks += emit.norm("ssm.out_norm", tokens, width, setting)
        tasks += emit.linear("ssm.gate_proj", tokens, d_model, width, setting)
        tasks += emit.gated_activation("ssm.gate", tokens, width, setting, "sigmoid")
        tasks += emit.linear("ssm.out", tokens, width, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
