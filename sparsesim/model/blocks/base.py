"""What every block of a layer answers: its parameters, its cache and state, and the kernels it launches.

Kernels are emitted by what their number and size depend on, so that a step's cost can be tabulated: `token_tasks` on
the step's tokens, `decode_by_window` on the decoding sequences and their attended context, `chunk_tasks` on a prompt
chunk. Numeric arguments may be arrays that broadcast.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from pydantic import Field

from sparsesim.families import Member
from sparsesim.model import emit
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.weights import State, Weights
from sparsesim.work import Array, Task, dtype_bytes

ByWindow = Mapping[float, list[Task]]
"""Tasks by the attention window their size depends on; window 0: on no context at all; inf: on all of it."""


class Block(Member, family="sparsesim.model.blocks"):
    """A residual block: a norm, what a subclass does, and the sum back into the stream."""

    post_norm: bool = Field(False, description="a second norm on the block's output (Gemma-2)")
    norm_bias: bool = Field(False, description="norms have a bias (LayerNorm)")

    @abstractmethod
    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Weights of one of tp ranks, norms around the block left out; experts always whole."""

    @abstractmethod
    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Kernels sized by the number of tokens, norms around the block left out."""

    def expert_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Kernels of the routed experts alone, on one of the setting's ranks, for `tokens` of all of them."""
        del tokens, d_model, setting
        return []

    @property
    def part(self) -> str:
        """First word of the block's task names."""
        return self.kind

    def norm_parameters(self, d_model: int) -> int:
        """Of the norms around the block."""
        return d_model * (1 + self.post_norm) * (1 + self.norm_bias)

    def stored(self, d_model: int, tp: int = 1) -> Weights:
        """Weights with the norms."""
        return self.weights(d_model, tp) + Weights(kept=self.norm_parameters(d_model))

    def stored_in(self, d_model: int, layers: int, tp: int = 1) -> Weights:
        """Weights of all of the model's layers that have this block."""
        return self.stored(d_model, tp).times(layers)

    def held_experts(self, setting: Setting) -> float:
        """Expert weights that a layout holds over those that there are."""
        del setting
        return 1.0

    def parameters(self, d_model: int) -> int:
        """All parameters."""
        return self.stored(d_model).total

    def active_parameters(self, d_model: int) -> int:
        """Parameters one token passes through."""
        return self.stored(d_model).active

    def kv_elements_per_token(self, tp: int = 1) -> int:
        """Cache elements one of tp ranks keeps for a token."""
        del tp
        return 0

    def kv_bytes_per_token(self, precision: Precision, tp: int = 1) -> float:
        """Cache bytes one of tp ranks keeps for a token."""
        return self.kv_elements_per_token(tp) * dtype_bytes(precision.kv)

    @property
    def kv_window(self) -> float:
        """Tokens the cache must hold at most; inf: all."""
        return float("inf")

    def state_elements(self, tp: int = 1) -> State:
        """Fixed-size state of a sequence on one of tp ranks."""
        del tp
        return State()

    def token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Kernels sized by the number of tokens of the step."""
        after = emit.norm(f"{self.part}.post_norm", tokens, d_model, setting) if self.post_norm else []
        before = emit.add_norm(f"{self.part}.norm", tokens, d_model, setting)
        return [*before, *self.own_token_tasks(tokens, d_model, setting), *after]

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """Kernels of one decoded token for each of `sequences` with a mean of `kv_tok` tokens, the new one included."""
        del sequences, kv_tok, setting
        return {}

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Kernels of `sequences` prompt chunks of q_tok new tokens; kv_tok includes them."""
        del sequences, q_tok, kv_tok, setting
        return []
