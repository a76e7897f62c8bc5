"""S4D (arXiv 2206.11893): a diagonal state-space layer, each channel its own, then a gated map over channels."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class S4d(Recurrent):
    """`width` channels of `state` real elements (state/2 complex pairs) whose dynamics do not depend on the input."""

    conv: int = Field(0, ge=0, description="taps of a causal convolution; S4D has none")
    width: int = Field(ge=1, description="channels")
    state: int = Field(64, ge=1, description="real elements of a channel's state")

    def cells(self, tp: int = 1) -> Cells:
        """One head; an element-wise recurrence, as Mamba-1's."""
        return Cells("mamba1", 1, split(self.width, tp, "S4D channels"), self.state)

    def conv_width(self, tp: int = 1) -> int:
        """The channels, where there is a convolution."""
        return split(self.width, tp, "S4D channels") if self.conv else 0

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """The map to twice the width (a GLU) with bias; A and C of each element, D and the step of each channel."""
        width = split(self.width, tp, "S4D channels")
        kept = 2 * width * self.state + 2 * width + 2 * d_model + self.conv_width(tp) * self.conv
        return Weights(linear=2 * width * d_model, kept=kept)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """The activation, the map and its gate."""
        width = split(self.width, setting.tp, "S4D channels")
        tasks = [emit.pointwise("ssm.activation", "activation", tokens, width, setting)]
        tasks += emit.linear("ssm.out", tokens, width, 2 * d_model, setting)
        tasks += emit.gated_activation("ssm.gate", tokens, d_model, setting, "sigmoid")
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
