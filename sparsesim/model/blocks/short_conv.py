"""The gated short convolution of LFM2: y = out(C * conv(B * x)), whose only past is the convolution's."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.setting import Setting
from sparsesim.model.weights import State, Weights, split
from sparsesim.work import Array, Task


class ShortConv(Block):
    """Channels `width`, gated before and after a causal convolution."""

    width: int = Field(ge=1, description="channels")
    conv: int = Field(3, ge=1, description="taps of the convolution")
    bias: bool = Field(False, description="biases of projections and convolution")

    @property
    def part(self) -> str:
        """Reports group all recurrent mixers."""
        return "ssm"

    def _channels(self, tp: int) -> int:
        return split(self.width, tp, "convolution channels")

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Projections to B, C and x, and back; the convolution is kept."""
        width = self._channels(tp)
        kept = width * self.conv + (4 * width + d_model) * self.bias
        return Weights(linear=4 * d_model * width, kept=kept)

    def state_elements(self, tp: int = 1) -> State:
        """The last conv-1 inputs."""
        return State(conv=self._channels(tp) * (self.conv - 1))

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections and the two gates."""
        width = self._channels(setting.tp)
        tasks = emit.linear("ssm.in", tokens, d_model, 3 * width, setting)
        tasks.append(emit.pointwise("ssm.gate_in", "silu_mul", tokens, width, setting))
        tasks.append(emit.pointwise("ssm.gate", "silu_mul", tokens, width, setting))
        tasks += emit.linear("ssm.out", tokens, width, d_model, setting)
        return tasks + emit.all_reduce("ssm.allreduce", tokens, d_model, setting)

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """The convolution, its state read and written."""
        del kv_tok
        width = self._channels(setting.tp) * self.conv
        return {0.0: [emit.pointwise("ssm.conv", "conv", sequences, width, setting)]}

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """The convolution over the new tokens."""
        del kv_tok
        return [emit.pointwise("ssm.conv", "conv", sequences * q_tok, self._channels(setting.tp), setting)]
