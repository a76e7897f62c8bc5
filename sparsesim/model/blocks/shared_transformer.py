"""Zamba2's shared block (arXiv 2411.15242): few copies of attention and FFN, used by many layers.

A use concatenates the stream with the embedding (2 d_model wide), attends, passes an FFN with a low-rank adapter of its
own, and projects back before its layer's Mamba block.
"""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, Task


class SharedTransformer(Block):
    """`copies` of the weights for all layers that use the block; adapters and the projection are each layer's own."""

    attention: Attention = Field(description="over the concatenation; its own norm is not used")
    d_ff: int = Field(ge=1, description="neurons")
    copies: int = Field(1, ge=1, description="copies of the shared weights")
    adapter_rank: int = Field(128, ge=0, description="rank of each use's adapter on gate and up")

    @property
    def part(self) -> str:
        """Reports group it with attention."""
        return "attention"

    def norm_parameters(self, d_model: int) -> int:
        """They belong to the shared weights."""
        del d_model
        return 0

    def shared(self, d_model: int, tp: int = 1) -> Weights:
        """One copy: attention from 2 d_model, FFN, norms of 2 d_model and d_model."""
        q, kv = self.attention.widths(tp)
        width = split(self.d_ff, tp, "FFN neurons")
        linear = 2 * d_model * (q + 2 * kv) + q * d_model + 3 * d_model * width
        return Weights(linear=linear, kept=3 * d_model)

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """What each use has of its own."""
        width = split(self.d_ff, tp, "FFN neurons")
        return Weights(linear=d_model * d_model + self.adapter_rank * (d_model + 2 * width))

    def stored_in(self, d_model: int, layers: int, tp: int = 1) -> Weights:
        """The copies once, the rest for every layer."""
        return self.shared(d_model, tp).times(self.copies) + self.weights(d_model, tp).times(layers)

    def kv_elements_per_token(self, tp: int = 1) -> int:
        """Every use has keys and values of its own."""
        return self.attention.kv_elements_per_token(tp)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Norm of the concatenation, attention's and the FFN's products, adapter, projection."""
        q, kv = self.attention.widths(setting.tp)
        width = split(self.d_ff, setting.tp, "FFN neurons")
        tasks = emit.linear("attention.qkv", tokens, 2 * d_model, q + 2 * kv, setting)
        if self.attention.rope:
            tasks += emit.rope("attention.rope", tokens, (q, kv), setting)
        cache = emit.pointwise("attention.cache", "activation", tokens, 2 * kv, setting, setting.precision.kv)
        tasks += [cache, *emit.linear("attention.out", tokens, q, d_model, setting)]
        tasks += emit.all_reduce("attention.allreduce", tokens, d_model, setting)
        tasks += emit.norm("ffn.norm", tokens, d_model, setting)
        tasks += emit.linear("ffn.gate_up", tokens, d_model, 2 * width, setting)
        if self.adapter_rank:
            tasks += emit.linear("ffn.adapter_down", tokens, d_model, self.adapter_rank, setting)
            tasks += emit.linear("ffn.adapter_up", tokens, self.adapter_rank, 2 * width, setting)
        tasks += emit.gated_activation("ffn.activation", tokens, width, setting, "gelu")
        tasks += emit.linear("ffn.down", tokens, width, d_model, setting)
        tasks += emit.all_reduce("ffn.allreduce", tokens, d_model, setting)
        return tasks + emit.linear("attention.project", tokens, d_model, d_model, setting)

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """The attention's."""
        return self.attention.decode_by_window(sequences, kv_tok, setting)

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """The attention's."""
        return self.attention.chunk_tasks(sequences, q_tok, kv_tok, setting)
