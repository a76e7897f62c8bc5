"""From a configuration's fields to the feed-forward block of each layer."""

from __future__ import annotations

from dataclasses import dataclass

from sparsesim.model.blocks import Block
from sparsesim.model.blocks.ffn import Ffn
from sparsesim.model.blocks.moe import Moe
from sparsesim.model.blocks.parallel import Parallel
from sparsesim.model.hf.mixers import Reader, activation

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)


@dataclass(frozen=True)
class FfnReader:
    """Builds the feed-forward blocks of one configuration."""

    reader: Reader
    layers: int

    def experts(self) -> int:
        """Experts routed over; 0 where there are none."""
        return self.reader.fields.maybe_integer(*_EXPERTS) or 0

    def settle(self, kinds: list[str]) -> None:
        """Mark the fields whose reading depends on which layers are dense and which have experts."""
        f = self.reader.fields
        f.settled("first_k_dense_replace", "num_dense_layers", "moe_layer_freq", "interleave_moe_layer_step")
        f.settled("decoder_sparse_step", "mlp_only_layers", "mlp_bias", "hidden_act", "enable_moe_block")
        f.must_be("use_double_wide_mlp", False)
        f.must_be("projectors_bias", False)
        f.must_be("router_bias", False)
        if "moe" in kinds or (self.reader.family.ffn and self.experts()):
            return
        f.settled(*_EXPERTS, "moe_shared_expert_intermediate_size", "moe_latent_size")
        f.settled("moe_intermediate_size", "n_shared_experts", "n_group", "topk_group", *_TOP_K)

    def block(self, index: int) -> Block:
        """Of a layer, by whether it is sparse."""
        sparse = self.experts() > 0 and self.is_sparse(index)
        if sparse and self.reader.family.beside_moe:
            return Parallel(branches=(self.dense(), self.moe()), branch_norms=3, **self.reader.norms)
        return self.moe() if sparse else self.dense()

    def is_sparse(self, index: int) -> bool:
        """Whether a layer has experts; the first of list, first dense layers, step, period decides, else all have."""
        f = self.reader.fields
        kinds = f.listed("mlp_layer_types", self.layers)
        listed = f.listed("moe_layers")
        if kinds is not None:
            return bool(kinds[index] == "sparse")
        if listed is not None:
            return index in listed
        dense_first = f.maybe_integer("first_k_dense_replace", "num_dense_layers")
        every = f.maybe_integer("moe_layer_freq", "moe_layer_interval", least=1) or 1
        if dense_first is not None:
            return index >= dense_first and index % every == 0
        return self._by_step(index)

    def _by_step(self, index: int) -> bool:
        f = self.reader.fields
        step = f.maybe_integer("decoder_sparse_step", "interleave_moe_layer_step", least=0)
        only_dense = f.listed("mlp_only_layers") or []
        if step is not None:
            return index not in only_dense and step > 0 and (index + 1) % step == 0
        period = f.maybe_integer("expert_layer_period", least=1)
        if period is not None:
            return index % period == f.integer("expert_layer_offset", least=0)
        if f.has("enable_moe_block"):
            return f.flag("enable_moe_block", False)
        return True

    def dense(self) -> Ffn:
        """A dense block."""
        f, family = self.reader.fields, self.reader.family
        f.settled("shared_intermediate_size")
        return Ffn(
            d_ff=self._dense_width(),
            gated=family.gated,
            activation=activation(f),
            bias=f.flag("mlp_bias", False) or family.ffn_bias,
            sub_norm=family.sub_norm,
            **self.reader.norms,
        )

    def _dense_width(self) -> int:
        f = self.reader.fields
        if self.reader.family.shared == "always" and f.has("shared_intermediate_size"):
            f.settled("intermediate_size")
            return f.integer("shared_intermediate_size")
        if f.has("hidden_ratio") and not f.has("intermediate_size"):
            return 256 * -(-int(f.integer("hidden_ratio") * self.reader.d_model * 2 / 3) // 256)
        width = f.integer("block_ff_dim", "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size")
        if f.flag("block_auto_adjust_ff_dim", False):
            multiple = f.integer("block_multiple_of")
            return multiple * -(-int(f.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3)) // multiple)
        return width // 2 if self.reader.family.half_ffn else width

    def moe(self) -> Moe:
        """A block of experts."""
        f, family = self.reader.fields, self.reader.family
        width = self._expert_width()
        shared = self._shared_width(width)
        return Moe(
            experts=max(self.experts(), 1),
            top_k=f.integer(*_TOP_K),
            d_ff=width,
            shared_d_ff=shared,
            shared_gate=family.shared == "gated" and shared > 0,
            gated=family.gated,
            activation=activation(f),
            zero_experts=f.maybe_integer("zero_expert_num") or 0,
            latent=f.maybe_integer("moe_latent_size", least=1),
            groups=f.maybe_integer("n_group", "num_expert_group", least=1) or 1,
            groups_kept=f.maybe_integer("topk_group", least=1) or 1,
            bias=family.expert_bias,
            router_scale=family.beside_moe,
            correction_bias=family.correction_bias and f.flag("use_expert_bias", True),
            **self.reader.norms,
        )

    def _expert_width(self) -> int:
        f = self.reader.fields
        own = ("moe_intermediate_size", "expert_ffn_hidden_size")
        if self.reader.family.expert_width == "moe":
            f.settled("intermediate_size")
            return f.integer(*own)
        f.settled("intermediate_size_mlp", *own)
        return f.integer("intermediate_size")

    def _shared_width(self, width: int) -> int:
        f = self.reader.fields
        rule = self.reader.family.shared
        if rule == "intermediate":
            return width
        if rule == "gated":
            return f.maybe_integer("shared_expert_intermediate_size") or 0
        if rule in ("own", "always"):
            names = ("moe_shared_expert_intermediate_size", "shared_intermediate_size")
            f.settled("n_shared_experts")
            return f.maybe_integer(*names) or 0
        if rule == "count":
            return width * (f.maybe_integer("n_shared_experts", "num_shared_experts", "moe_num_shared_experts") or 0)
        return 0
