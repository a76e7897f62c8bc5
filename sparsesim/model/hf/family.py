"""What a model_type's code does that its config.json does not say, and its class's default sizes."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from sparsesim.families import Frozen
from sparsesim.loading import build, load_yaml

_NOT_DEFAULTED = frozenset(
    (
        "attn_layer_indices",
        "attn_type_list",
        "dtype",
        "full_attn_idxs",
        "hybrid_layer_ids",
        "hybrid_override_pattern",
        "indexer_types",
        "layer_types",
        "layers_block_type",
        "linear_attn_config",
        "mlp_layer_types",
        "mlp_only_layers",
        "moe_layers",
        "mtp_num_hidden_layers",
        "no_rope_layers",
        "num_experts_per_token",
        "experts_per_token",
        "quantization_config",
        "torch_dtype",
    )
)
"""Fields that no class gives a plain default."""


class Family(Frozen):
    """One model_type: traits fixed in its modelling code, and the class defaults of fields a file may leave out."""

    layers: Literal[
        "full",
        "zamba2",
        "sliding",
        "upper_sliding",
        "even_sliding",
        "nope_full",
        "linear",
        "quarter_full",
        "fourth_full",
        "odd_linear",
        "hybrid",
    ] = Field("full", description="kinds of layers where the file gives neither list, pattern nor period")
    linear: Literal["", "mamba1", "mamba2", "gated_deltanet", "kda", "lightning", "mlgru", "short_conv", "rg_lru"] = (
        Field("", description="block behind layer types mamba and linear_attention")
    )
    ffn: bool = Field(True, description="a feed-forward block follows each mixer")
    qkv_bias: bool = Field(False, description="queries, keys and values have biases whatever attention_bias says")
    out_bias: bool = Field(True, description="attention_bias covers the output projection too")
    always_out_bias: bool = Field(False, description="attention's output projection has a bias whatever the file says")
    qk_norm: Literal["none", "head", "width", "unit"] = "none"
    qk_norm_field: bool = Field(False, description="use_qk_norm decides whether the norm is there")
    sinks: bool = False
    output_gate: bool = False
    sub_norm: bool = False
    post_norm: bool = False
    norm_bias: bool = False
    gated: bool = True
    ffn_bias: bool = Field(False, description="projections of the FFN have biases whatever the file says")
    half_ffn: bool = Field(False, description="intermediate_size counts gate and up together (RecurrentGemma)")
    double: bool = Field(False, description="a layer is two of attention and FFN, experts beside the first (LongCat)")
    inner_norms: bool = Field(False, description="Mamba-1: weights on the norms of the time step, B and C")
    gated_norm: bool = Field(True, description="Mamba-2: a norm after the gate, unless mamba_rms_norm says otherwise")
    expert_width: Literal["moe", "intermediate"] = Field("moe", description="which field is an expert's width")
    expert_bias: bool = False
    correction_bias: bool = False
    shared: Literal["", "count", "gated", "own", "always", "intermediate"] = Field(
        "", description="shared experts: a count of expert widths, a gated one, an own width, always there, d_ff wide"
    )
    beside_moe: bool = Field(False, description="a dense FFN runs beside the experts (Gemma-4)")
    head_bias: bool = Field(False, description="the LM head may have a bias (lm_head_bias)")
    ternary: bool = Field(False, description="weights are ternary and activations 8 bits whatever the file says")
    defaults: dict[str, int | float | str | bool | list[str]] = Field(
        default_factory=dict, description="class defaults"
    )


class Families(Frozen):
    """All model types that can be read."""

    source: str
    families: dict[str, Family]
    ignored: tuple[str, ...] = Field(description="fields that change neither sizes nor kernels")
    ignored_endings: tuple[str, ...] = Field(description="endings of such fields")

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Fields that some family reads: not unknown where a fault stopped the reading."""
        return frozenset(name for family in self.families.values() for name in family.defaults) | _NOT_DEFAULTED


@cache
def families() -> Families:
    """The table beside this module."""
    table: Families = build(Families, load_yaml(Path(__file__).with_name("families.yaml")))
    return table
