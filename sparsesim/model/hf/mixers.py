"""From a configuration's fields to the mixer of each layer."""

from __future__ import annotations

from dataclasses import dataclass

from sparsesim.errors import closest
from sparsesim.model.blocks import Block
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.mla import Mla
from sparsesim.model.blocks.parallel import Parallel
from sparsesim.model.blocks.shared_transformer import SharedTransformer
from sparsesim.model.hf.fields import Fields
from sparsesim.model.hf.recurrent import RecurrentReader
from sparsesim.model.indexer import Indexer


@dataclass(frozen=True)
class Reader(RecurrentReader):
    """Builds the mixers of one configuration."""

    def mixer(self, kind: str, index: int) -> Block:
        """The mixer of a layer of a kind that `layers.layer_kinds` gives."""
        if kind in ("full", "sliding", "chunked", "indexed"):
            return self.attention(kind, index)
        if kind == "hybrid" and self.family.layers == "zamba2":
            return self.shared_transformer()
        if kind == "hybrid":
            return Parallel(branches=(self.attention("full", index), self.linear()), **self.norms)
        return self.linear()

    def linear(self) -> Block:
        """The recurrent block of the family."""
        block = self.block()
        if block is None:
            self.fields.fault("layer_types", f"{self.fields.class_name} has no mamba or linear_attention layers")
            return self.attention("full", 0)
        return block

    def attention(self, kind: str, index: int) -> Block:
        """Latent attention where the fields say so, else attention with grouped heads."""
        if self.fields.has("kv_lora_rank"):
            return self._latent(index)
        f, family = self.fields, self.family
        heads = f.integer("num_attention_heads")
        if family.linear == "short_conv":
            f.settled("num_heads")
        kv_heads = f.maybe_integer("num_key_value_heads", "num_query_groups", least=1) or heads
        head_dim = f.maybe_integer("head_dim", "attention_head_dim", least=1) or self.d_model // heads
        if kind == "full" and f.has("global_head_dim"):
            head_dim = f.integer("global_head_dim")
            kv_heads = f.maybe_integer("num_global_key_value_heads", least=1) or kv_heads
        bias = f.flag("attention_bias", False) or f.flag("use_bias", False) * (not family.linear)
        own_out = f.raw("attention_out_bias")
        qk_norm = family.qk_norm
        if family.qk_norm_field and not f.flag("use_qk_norm", False):
            qk_norm = "none"
        return Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=self._window(kind),
            chunked=kind == "chunked",
            rope=self._rope(kind, index),
            qk_norm=qk_norm,
            qkv_bias=family.qkv_bias or f.flag("qkv_bias", False) or bias,
            out_bias=bool(own_out) if own_out is not None else (bias and family.out_bias) or family.always_out_bias,
            sinks=family.sinks,
            output_gate=f.flag("attn_output_gate", family.output_gate),
            sub_norm=family.sub_norm,
            k_is_v=kind == "full" and f.flag("attention_k_eq_v", False),
            indexer=self._indexer(index) if kind == "indexed" else None,
            **self.norms,
        )

    def _window(self, kind: str) -> int | None:
        if kind == "chunked":
            return self.fields.integer("attention_chunk_size")
        if kind == "sliding":
            return self.fields.integer("sliding_window", "attention_window_size")
        return None

    def _rope(self, kind: str, index: int) -> bool:
        rotated = self.fields.listed("no_rope_layers")
        if rotated is not None and index < len(rotated):
            return bool(rotated[index])
        interval = self.fields.maybe_integer("no_rope_layer_interval")
        if interval:
            return (index + 1) % interval != 0
        return not (self.family.linear == "mamba1" or self.fields.text("position_embedding_type") == "nope") or (
            kind == "chunked"
        )

    def _indexer(self, index: int) -> Indexer:
        f = self.fields
        kinds = f.listed("indexer_types") or []
        return Indexer(
            heads=f.integer("index_n_heads"),
            head_dim=f.integer("index_head_dim"),
            top_k=f.integer("index_topk"),
            reused=index < len(kinds) and kinds[index] == "shared",
        )

    def _latent(self, index: int) -> Mla:
        f = self.fields
        if f.flag("attention_bias", False):
            f.fault("attention_bias", "true is not understood with latent attention", "false")
        f.settled("num_key_value_heads", "head_dim", "qk_head_dim")
        return Mla(
            heads=f.integer("num_attention_heads"),
            kv_rank=f.integer("kv_lora_rank"),
            q_rank=f.maybe_integer("q_lora_rank", least=1),
            nope_dim=f.integer("qk_nope_head_dim"),
            rope_dim=f.integer("qk_rope_head_dim", least=0),
            v_dim=f.integer("v_head_dim"),
            rope=not f.flag("mla_use_nope", False),
            indexer=self._indexer(index) if f.has("index_topk") else None,
            **self.norms,
        )

    def shared_transformer(self) -> SharedTransformer:
        """Zamba2's shared block."""
        f = self.fields
        f.must_be("use_shared_attention_adapter", False)
        f.must_be("add_bias_linear", False)
        f.must_be("gated_linear_unit", True)
        f.must_be("use_shared_mlp_adapter", True)
        f.settled("attention_hidden_size", "kv_channels", "num_query_groups", "ffn_hidden_size")
        heads = f.integer("num_attention_heads")
        return SharedTransformer(
            attention=Attention(
                heads=heads,
                kv_heads=f.maybe_integer("num_key_value_heads", least=1) or heads,
                head_dim=f.maybe_integer("attention_head_dim", least=1) or 2 * self.d_model // heads,
                rope=f.flag("use_mem_rope", False),
            ),
            d_ff=f.maybe_integer("intermediate_size", least=1) or 4 * self.d_model,
            copies=f.integer("num_mem_blocks"),
            adapter_rank=f.integer("adapter_rank", least=0),
        )


ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}
"""Activations by the names configurations give them."""


def activation(fields: Fields) -> str:
    """Of the feed-forward blocks."""
    word = fields.text("hidden_act", "mlp_hidden_act", "hidden_activation", "activation_function", otherwise="silu")
    if word not in ACTIVATIONS:
        fields.fault("hidden_act", f"unknown activation {word!r}", closest(word, ACTIVATIONS))
    return ACTIVATIONS.get(word, word)
