"""Mixture of experts: a router, top_k of many expert FFNs, and experts shared by all tokens."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block
from sparsesim.model.blocks.ffn import dense_tasks
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, MoeCombine, MoeDispatch, MoeFfn, Task


class Moe(Block):
    """Experts of width d_ff; a shared expert may have its own width and gate.

    `latent`: experts work on a narrower stream, with one projection down before and one up after them (Nemotron-3
    Super). `groups` and `groups_kept`: group-limited routing (DeepSeek-V3).
    """

    experts: int = Field(ge=1, description="experts routed over")
    top_k: int = Field(ge=1, description="experts per token")
    d_ff: int = Field(ge=1, description="neurons of an expert")
    shared_d_ff: int = Field(0, ge=0, description="neurons of the shared experts together; 0: none")
    shared_gate: bool = Field(False, description="a sigmoid gate on the shared expert's output (Qwen)")
    zero_experts: int = Field(0, ge=0, description="experts that pass their input on, no work (LongCat)")
    gated: bool = Field(True, description="gate and up projections, or up alone")
    activation: str = Field("silu", description="silu, gelu, relu2, ...")
    latent: int | None = Field(None, ge=1, description="width the experts work in; none: d_model")
    groups: int = Field(1, ge=1, description="groups the experts are divided into for routing")
    groups_kept: int = Field(1, ge=1, description="groups a token may use")
    bias: bool = Field(False, description="biases of router and experts (gpt-oss)")
    router_scale: bool = Field(False, description="scales on the router's input and on each expert (Gemma-4)")
    correction_bias: bool = Field(False, description="one bias per expert that steers the choice (DeepSeek-V3)")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_k > self.experts + self.zero_experts:
            raise ValueError(f"top_k: {self.top_k} experts a token are more than the {self.experts} there are")
        if self.groups_kept > self.groups or self.experts % self.groups:
            raise ValueError(
                f"groups: {self.groups_kept} of {self.groups} over {self.experts} experts; "
                "groups divide the experts, and no more are kept than there are"
            )
        if self.shared_gate and not self.shared_d_ff:
            raise ValueError("shared_gate: there is no shared expert (shared_d_ff is 0)")
        return self

    @property
    def ups(self) -> int:
        """Projections into the neurons."""
        return 2 if self.gated else 1

    @property
    def working_top_k(self) -> int:
        """Experts per token that do work, zero experts being chosen as often as others."""
        return max(round(self.top_k * self.experts / (self.experts + self.zero_experts)), 1)

    def expert_parameters(self, d_model: int) -> int:
        """Of one routed expert."""
        width = self.latent or d_model
        return (self.ups + 1) * width * self.d_ff + (self.ups * self.d_ff + width) * self.bias

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Router and norms kept, shared expert split over tp, routed experts whole (spread over all ranks)."""
        each = self.expert_parameters(d_model)
        shared = (self.ups + 1) * d_model * split(self.shared_d_ff, tp, "shared expert neurons")
        latent = 2 * d_model * self.latent if self.latent else 0
        router = (self.experts + self.zero_experts) * (d_model + self.bias + self.correction_bias)
        return Weights(
            linear=shared + latent,
            kept=router + d_model * self.shared_gate + (d_model + self.experts) * self.router_scale,
            experts=self.experts * each,
            active_experts=self.working_top_k * each,
        )

    def held_experts(self, setting: Setting) -> float:
        """Redundant slots are held beside the experts; nothing where these are apart."""
        if setting.experts_apart:
            return 0.0
        return 1.0 + setting.redundant / self.experts

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Router, choice, experts with whatever moves tokens to them and back, shared experts.

        `tokens` are those of one attention-data-parallel rank; the experts see those of all dp ranks.
        """
        width = self.latent or d_model
        tasks = emit.linear("moe.router", tokens, d_model, self.experts + self.zero_experts, setting, kept=True)
        tasks.append(emit.pointwise("moe.topk", "topk", tokens, self.experts + self.zero_experts, setting, "fp32"))
        if self.latent:
            tasks += emit.linear("moe.latent_down", tokens, d_model, width, setting)
        tasks += emit.quantized("moe.experts", tokens, width, setting)
        tasks += self._routed(tokens, d_model, setting)
        if self.latent:
            tasks += emit.linear("moe.latent_up", tokens, width, d_model, setting)
        return tasks + self.shared_tasks(tokens, d_model, setting)

    def _routed(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        width = self.latent or d_model
        if setting.experts_apart:
            return emit.all_gather("moe.gather", tokens, width, setting.tp, setting) if setting.tp > 1 else []
        experts = Task("moe.experts", self.experts_op(tokens, d_model, setting))
        if setting.dp == 1:
            return [experts, *emit.all_reduce("moe.allreduce", tokens, width, setting)]
        whole = tokens * setting.dp
        if setting.ep == 1:
            return [
                *emit.all_gather("moe.gather", whole, width, setting.ranks, setting),
                experts,
                *emit.reduce_scatter("moe.scatter", whole, width, setting.ranks, setting),
            ]
        dispatch = MoeDispatch(dtype=_payload(setting), **self._route(tokens, width, setting))
        combine = MoeCombine(dtype=setting.precision.stream, **self._route(tokens, width, setting))
        back = emit.all_gather("moe.gather", tokens, width, setting.tp, setting) if setting.tp > 1 else []
        return [Task("moe.dispatch", dispatch), experts, Task("moe.combine", combine), *back]

    def expert_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """The grouped products of one of the ranks that the experts are spread over."""
        return [Task("moe.experts", self.experts_op(tokens / setting.dp, d_model, setting))]

    def exchanges(self, d_model: int, setting: Setting) -> tuple[MoeDispatch, MoeCombine]:
        """Dispatch of one token per rank, and combine: what a token's payload is."""
        route = self._route(float(setting.tp), self.latent or d_model, setting)
        return MoeDispatch(dtype=_payload(setting), **route), MoeCombine(dtype=setting.precision.stream, **route)

    def _route(self, tokens: Array, width: int, setting: Setting) -> dict[str, Any]:
        return {
            "ranks": setting.ranks,
            "nodes": setting.nodes(setting.ranks),
            "tokens": tokens / setting.tp,
            "d_model": width,
            "top_k": self.working_top_k,
            "experts": self.experts,
            "groups": self.groups_kept if self.groups > 1 else 0,
            "load": setting.expert_load,
        }

    def experts_op(self, tokens: Array, d_model: int, setting: Setting) -> MoeFfn:
        """The grouped products of one rank.

        Raises:
            InputError: ep does not divide the experts with their redundant slots, or the ways an expert is split its
                neurons.

        """
        named = f"experts and {setting.redundant} redundant slots" if setting.redundant else "experts"
        split(self.experts + setting.redundant, setting.ep, named, "ep")
        ways = setting.ranks // setting.ep
        split(self.d_ff, ways, "neurons of an expert", "tp*dp/ep")
        precision = setting.precision
        return MoeFfn(
            tokens=tokens * setting.dp,
            d_model=self.latent or d_model,
            d_ff=self.d_ff,
            experts=self.experts,
            top_k=self.working_top_k,
            ep=setting.ep,
            tp=ways,
            load=setting.expert_load,
            dtype=precision.activations,
            weights=emit.stored(precision.expert_weights, precision.activations),
            gated=self.gated,
            density=setting.layer_sparsity.projection("down") if setting.layer_sparsity else 1.0,
        )

    def shared_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Experts that all tokens pass through, for one rank's tokens."""
        if not self.shared_d_ff:
            return []
        width = split(self.shared_d_ff, setting.tp, "shared expert neurons")
        tasks = dense_tasks("moe.shared", tokens, d_model, width, setting, self.gated, self.activation)
        if self.shared_gate:
            tasks += emit.linear("moe.shared_gate", tokens, d_model, 1, setting, kept=True)
        tasks.append(emit.pointwise("moe.shared_sum", "residual", tokens, d_model, setting))
        own = setting.dp > 1 or self.latent is not None or setting.experts_apart
        return tasks + (emit.all_reduce("moe.shared_allreduce", tokens, d_model, setting) if own else [])


def _payload(setting: Setting) -> str:
    """Of dispatched tokens: what the experts' products take, 8 bits at least."""
    activations = setting.precision.activations
    return "fp8" if activations in ("fp8", "fp4", "int8") else activations
