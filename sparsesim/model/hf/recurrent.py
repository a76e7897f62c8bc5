"""From a configuration's fields to the recurrent mixer of the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsesim.model.blocks import Block
from sparsesim.model.blocks.gated_deltanet import GatedDeltanet
from sparsesim.model.blocks.kda import Kda
from sparsesim.model.blocks.lightning import Lightning
from sparsesim.model.blocks.mamba1 import Mamba1
from sparsesim.model.blocks.mamba2 import Mamba2
from sparsesim.model.blocks.mlgru import Mlgru
from sparsesim.model.blocks.rg_lru import RgLru
from sparsesim.model.blocks.short_conv import ShortConv
from sparsesim.model.hf.family import Family
from sparsesim.model.hf.fields import Fields


@dataclass(frozen=True)
class RecurrentReader:
    """Builds the recurrent blocks of one configuration."""

    fields: Fields
    family: Family
    d_model: int

    @property
    def norms(self) -> dict[str, bool]:
        """Norms around every block."""
        return {"post_norm": self.family.post_norm, "norm_bias": self.family.norm_bias}

    def block(self) -> Block | None:
        """The recurrent block of the family; None where it has none."""
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
        return readers[self.family.linear]() if self.family.linear else None

    def mamba1(self) -> Mamba1:
        """Mamba-1."""
        f = self.fields
        rank = f.raw("time_step_rank", "mamba_dt_rank")
        automatic = rank in (None, "auto")
        if not automatic and (isinstance(rank, bool) or not isinstance(rank, int)):
            f.fault(f.name_of(("time_step_rank", "mamba_dt_rank")), f"{rank!r} is neither a whole number nor 'auto'")
            rank = 1
        inner = f.maybe_integer("intermediate_size", "d_inner", least=1) if not self.family.ffn else None
        expand = f.integer("expand", "mamba_expand")
        return Mamba1(
            d_inner=inner or expand * self.d_model,
            state=f.integer("state_size", "mamba_d_state"),
            dt_rank=-(-self.d_model // 16) if automatic else rank,
            conv=f.integer("conv_kernel", "mamba_d_conv"),
            inner_norms=f.flag("mamba_inner_layernorms", self.family.inner_norms),
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
        if self.family.layers == "hybrid":
            f.must_be("mamba_proj_bias", False)
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
