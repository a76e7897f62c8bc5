"""The recurrent block of Griffin and RecurrentGemma (arXiv 2402.19427): a real-gated linear recurrent unit."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks._recurrent import Cells, Recurrent
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class RgLru(Recurrent):
    """Channels `width` in `heads` blocks that gates do not cross; one state element per channel."""

    width: int = Field(ge=1, description="channels")
    heads: int = Field(ge=1, description="blocks of the gates' matrices")

    def _heads(self, tp: int) -> int:
        return split(self.heads, tp, "gate blocks")

    def cells(self, tp: int = 1) -> Cells:
        """An element-wise gated recurrence, as the MLGRU's."""
        return Cells("mlgru", 1, self.conv_width(tp), 1)

    def conv_width(self, tp: int = 1) -> int:
        """The channels."""
        return self._heads(tp) * (self.width // self.heads)

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Two projections in, one out, two block-diagonal gates; biases, convolution and decay are kept."""
        width, block = self.conv_width(tp), self.width // self.heads
        gates = 2 * self._heads(tp) * block * block
        kept = width * (self.conv + 1) + 2 * width + d_model + 3 * width
        return Weights(linear=3 * d_model * width + gates, kept=kept)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections, gates, and the product of the two branches."""
        width = self.conv_width(setting.tp)
        tasks = emit.linear("ssm.in", tokens, d_model, 2 * width, setting)
        tasks += emit.linear("ssm.gates", tokens, self.width // self.heads, 2 * width, setting)
        tasks += emit.gated_activation("ssm.gate", tokens, width, setting, "gelu")
        tasks += emit.linear("ssm.out", tokens, width, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)
