"""MLGRU, the MatMul-free token mixer (arXiv 2406.02528): h = f h + (1 - f) silu(i), output gated by g."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class Mlgru(Recurrent):
    """Ternary projections i, f, g and o; the state is one element per channel."""

    conv: int = Field(0, ge=0, description="taps of the causal convolution; 0: none")
    width: int = Field(ge=1, description="channels: expand_ratio * d_model")
    input_norms: bool = Field(True, description="each projection normalises its input (BitLinear)")

    def cells(self, tp: int = 1) -> Cells:
        """One head of `width` channels with one state element each."""
        return Cells("mlgru", 1, split(self.width, tp, "MLGRU channels"), 1)

    def conv_width(self, tp: int = 1) -> int:
        """The channels, where there is a convolution."""
        return split(self.width, tp, "MLGRU channels") if self.conv else 0

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Four projections; norms are kept."""
        width = split(self.width, tp, "MLGRU channels")
        norms = (3 * d_model + width) * self.input_norms + width
        return Weights(linear=4 * d_model * width, kept=norms + self.conv_width(tp) * self.conv)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Four products (each input may be thresholded to a density) and the gated norm of the output."""
        width = split(self.width, setting.tp, "MLGRU channels")
        sparsity = setting.layer_sparsity
        tasks: list[Task] = []
        for name in "ifg":
            density = sparsity.projection(name) if sparsity else 1.0
            tasks += emit.linear(f"ssm.{name}", tokens, d_model, width, setting, density)
        tasks += emit.gated_activation("ssm.gate", tokens, width, setting, "silu")
        tasks += emit.linear("ssm.o", tokens, width, d_model, setting, sparsity.projection("o") if sparsity else 1.0)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
