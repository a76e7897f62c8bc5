"""Mamba-2 (arXiv 2405.21060): one scalar decay per head, B and C shared by groups of heads."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split, split_or_copy
from sparsesim.work import Array, Task


class Mamba2(Recurrent):
    """`heads` of width head_dim with a state of head_dim x state each."""

    heads: int = Field(ge=1, description="heads")
    head_dim: int = Field(64, ge=1, description="width of a head")
    state: int = Field(128, ge=1, description="state size")
    groups: int = Field(1, ge=1, description="groups that share B and C")
    gated_norm: bool = Field(True, description="RMS norm after the gate, d_inner wide (not in Falcon-H1)")
    conv_bias: bool = Field(True, description="bias of the convolution")
    proj_bias: bool = Field(False, description="biases of the input and output projections")

    def cells(self, tp: int = 1) -> Cells:
        """Heads split, groups split while there are enough."""
        heads = split(self.heads, tp, "Mamba heads")
        return Cells("mamba2", heads, self.head_dim, self.state, split_or_copy(self.groups, tp, "Mamba groups"))

    def conv_width(self, tp: int = 1) -> int:
        """x, B and C."""
        cells = self.cells(tp)
        return cells.heads * self.head_dim + 2 * cells.groups * self.state

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """In (z, x, B, C, dt) and out projections; convolution, A, D, dt bias and norm are kept."""
        cells = self.cells(tp)
        inner, conv = cells.heads * self.head_dim, self.conv_width(tp)
        into = inner + conv + cells.heads
        kept = conv * (self.conv + self.conv_bias) + 3 * cells.heads + inner * self.gated_norm
        kept += (into + d_model) * self.proj_bias
        return Weights(linear=d_model * (into + inner), kept=kept)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections and the gate with its norm."""
        cells = self.cells(setting.tp)
        inner = cells.heads * self.head_dim
        into = inner + self.conv_width(setting.tp) + cells.heads
        tasks = emit.linear("ssm.in", tokens, d_model, into, setting)
        tasks += emit.gated_activation("ssm.gate", tokens, inner, setting, "silu")
        if self.gated_norm and not setting.fused:
            tasks += emit.norm("ssm.gate_norm", tokens, inner, setting)
        tasks += emit.linear("ssm.out", tokens, inner, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
