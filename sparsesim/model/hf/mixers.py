"""From a configuration's fields to the mixer of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsesim.errors import closest
from sparsesim.model.blocks import Block
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.gated_deltanet import GatedDeltanet
from sparsesim.model.blocks.kda import Kda
from sparsesim.model.blocks.lightning import Lightning
from sparsesim.model.blocks.mamba1 import Mamba1
from sparsesim.model.blocks.mamba2 import Mamba2
from sparsesim.model.blocks.mla import Mla
from sparsesim.model.blocks.mlgru import Mlgru
from sparsesim.model.blocks.parallel import Parallel
from sparsesim.model.blocks.rg_lru import RgLru
from sparsesim.model.blocks.shared_transformer import SharedTransformer
from sparsesim.model.blocks.short_conv import ShortConv
from sparsesim.model.hf.family import Family
from sparsesim.model.hf.fields import Fields
from sparsesim.model.indexer import Indexer


@dataclass(frozen=True)
class Reader:
    """Builds the blocks of one configuration."""

    fields: Fields
    family: Family
    d_model: int

    @property
    def norms(self) -> dict[str, bool]:
        """Norms around every block."""
        return {"post_norm": self.family.post_norm, "norm_bias": self.family.norm_bias}

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
        readers = {
            "mamba1": self.mamba1,
            "mamba2": self.mamba2,
            "gated_deltanet": self.gated_deltanet,
            "kda": self.kda,
            "lightning": self.lightning,
            "mlgru": self.mlgru,
            "short_conv": self.short_conv,
            "rg_lru": self.rg_lru,
        }
        if self.family.linear not in readers:
            self.fields.fault("layer_types", f"{self.fields.class_name} has no mamba or linear_attention layers")
            return self.attention("full", 0)
        return readers[self.family.linear]()

    def attention(self, kind: str, index: int) -> Block:
        """Latent attention where the fields say so, else attention with grouped heads."""
        if self.fields.has("kv_lora_rank"):
            return self._latent(index)
        f, family = self.fields, self.family
        heads = f.integer("num_attention_heads")
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

    def mamba1(self) -> Mamba1:
        """Mamba-1."""
        f = self.fields
        rank = f.raw("time_step_rank", "mamba_dt_rank")
        automatic = rank in (None, "auto")
        if not automatic and (isinstance(rank, bool) or not isinstance(rank, int)):
            f.fault(f.name_of(("time_step_rank", "mamba_dt_rank")), f"{rank!r} is neither a whole number nor 'auto'")
            rank = 1
        inner = f.maybe_integer("intermediate_size", least=1) if not self.family.ffn else None
        expand = f.integer("expand", "mamba_expand")
        return Mamba1(
            d_inner=inner or expand * self.d_model,
            state=f.integer("state_size", "mamba_d_state"),
            dt_rank=-(-self.d_model // 16) if automatic else rank,
            conv=f.integer("conv_kernel", "mamba_d_conv"),
            inner_norms=self.family.inner_norms,
            conv_bias=f.flag("use_conv_bias", True) and f.flag("mamba_conv_bias", True),
            proj_bias=f.flag("use_bias", False) or f.flag("mamba_proj_bias", False),
            **self.norms,
        )

    def mamba2(self) -> Mamba2:
        """Mamba-2; heads, head width and expansion must agree."""
        f = self.fields
        names = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
        given = f.raw(*(names if not self.family.ffn else names[:3]))
        heads = f.integer("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
        inner = f.maybe_integer("mamba_d_ssm", least=1)
        expand = f.maybe_integer("mamba_expand", "expand", least=1)
        if isinstance(given, bool) or not isinstance(given, int):
            given = (inner or (expand or 2) * self.d_model) // heads
        if inner is not None and inner != heads * given:
            f.fault("mamba_d_ssm", f"{inner} is not {heads} heads of {given}")
        f.settled("time_step_rank", "intermediate_size" if not self.family.ffn else "expand", "expand", "mamba_expand")
        f.settled("chunk_size", "mamba_chunk_size")
        return Mamba2(
            heads=heads,
            head_dim=given,
            state=f.integer("mamba_d_state", "ssm_state_size", "state_size"),
            groups=f.integer("mamba_n_groups", "mamba_ngroups", "n_groups"),
            conv=f.integer("mamba_d_conv", "conv_kernel"),
            gated_norm=f.flag("mamba_rms_norm", self.family.gated_norm),
            conv_bias=f.flag("mamba_conv_bias", True) and f.flag("use_conv_bias", True),
            proj_bias=f.flag("mamba_proj_bias", False) or f.flag("use_bias", False),
            **self.norms,
        )

    def gated_deltanet(self) -> GatedDeltanet:
        """Gated DeltaNet."""
        f = self.fields
        return GatedDeltanet(
            key_heads=f.integer("linear_num_key_heads"),
            value_heads=f.integer("linear_num_value_heads"),
            key_dim=f.integer("linear_key_head_dim"),
            value_dim=f.integer("linear_value_head_dim"),
            conv=f.integer("linear_conv_kernel_dim"),
            **self.norms,
        )

    def kda(self) -> Kda:
        """Kimi Delta Attention, its sizes flat or nested in linear_attn_config."""
        f = self.fields
        nested = f.mapping("linear_attn_config")
        if nested is not None:
            sizes: dict[str, Any] = {
                key: nested.get(name)
                for key, name in (("heads", "num_heads"), ("head_dim", "head_dim"), ("conv", "short_conv_kernel_size"))
            }
            for key, value in sizes.items():
                if not isinstance(value, int):
                    f.fault("linear_attn_config", f"{key}: {value!r} is not a whole number")
                    return Kda(heads=1, head_dim=1, conv=1)
            return Kda(**sizes, **self.norms)
        return Kda(
            heads=f.integer("linear_num_heads"),
            head_dim=f.integer("linear_head_dim"),
            conv=f.integer("linear_conv_kernel_dim"),
            **self.norms,
        )

    def lightning(self) -> Lightning:
        """Lightning attention: heads as those of the softmax layers."""
        f = self.fields
        heads = f.integer("num_attention_heads")
        head_dim = f.maybe_integer("head_dim", least=1) or self.d_model // heads
        f.settled("block_size")
        return Lightning(heads=heads, head_dim=head_dim, **self.norms)

    def mlgru(self) -> Mlgru:
        """MatMul-free token mixer."""
        f = self.fields
        conv = f.integer("conv_size") if f.flag("use_short_conv", False) else 0
        f.settled("num_heads", "conv_size")
        return Mlgru(width=f.integer("expand_ratio") * self.d_model, conv=conv, **self.norms)

    def short_conv(self) -> ShortConv:
        """LFM2's gated short convolution."""
        f = self.fields
        return ShortConv(
            width=self.d_model, conv=f.integer("conv_L_cache"), bias=f.flag("conv_bias", False), **self.norms
        )

    def rg_lru(self) -> RgLru:
        """RecurrentGemma's recurrent block."""
        f = self.fields
        return RgLru(
            width=f.maybe_integer("lru_width", least=1) or self.d_model,
            heads=f.integer("num_attention_heads"),
            conv=f.integer("conv1d_width"),
            **self.norms,
        )

    def shared_transformer(self) -> SharedTransformer:
        """Zamba2's shared block."""
        f = self.fields
        f.must_be("use_shared_attention_adapter", False)
        f.must_be("add_bias_linear", False)
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
