"""Mamba (arXiv 2312.00752): a selective scan with one decay per channel and state element."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class Mamba1(Recurrent):
    """Channels `d_inner` with `state` elements each; time steps through a rank `dt_rank`."""

    d_inner: int = Field(ge=1, description="channels: expand * d_model")
    state: int = Field(16, ge=1, description="state elements of a channel")
    dt_rank: int = Field(ge=1, description="rank of the time step's projection")
    inner_norms: bool = Field(False, description="RMS norms on the time step, B and C (Jamba)")
    conv_bias: bool = Field(True, description="bias of the convolution")
    proj_bias: bool = Field(False, description="biases of the input and output projections")

    @property
    def _x_width(self) -> int:
        return self.dt_rank + 2 * self.state

    def cells(self, tp: int = 1) -> Cells:
        """One head per channel, width 1; B and C shared by all."""
        return Cells("mamba1", split(self.d_inner, tp, "Mamba channels"), 1, self.state)

    def conv_width(self, tp: int = 1) -> int:
        """The channels."""
        return split(self.d_inner, tp, "Mamba channels")

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """in, x, dt and out projections; convolution, A, D, biases and norms are kept."""
        inner = split(self.d_inner, tp, "Mamba channels")
        linear = inner * (2 * d_model + self._x_width + self.dt_rank + d_model)
        kept = inner * (self.conv + self.conv_bias + self.state + 2)
        kept += self._x_width * self.inner_norms + (2 * inner + d_model) * self.proj_bias
        return Weights(linear=linear, kept=kept)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections; the one to time step, B and C sums over ranks (its input is split)."""
        inner = split(self.d_inner, setting.tp, "Mamba channels")
        tasks = emit.linear("ssm.in", tokens, d_model, 2 * inner, setting)
        tasks += emit.linear("ssm.x", tokens, inner, self._x_width, setting)
        tasks += emit.all_reduce("ssm.x_allreduce", tokens, self._x_width, setting)
        if self.inner_norms:
            for name, width in (("dt_norm", self.dt_rank), ("b_norm", self.state), ("c_norm", self.state)):
                tasks += emit.norm(f"ssm.{name}", tokens, width, setting)
        tasks += emit.linear("ssm.dt", tokens, self.dt_rank, inner, setting)
        tasks += emit.linear("ssm.out", tokens, inner, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
