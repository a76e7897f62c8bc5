"""The dense feed-forward block, gated or not, which activation sparsity may turn into a sparse one."""

from __future__ import annotations

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, SparseFfn, Task

SPARSE = ("auto", "twell", "compact", "ell", "csr")
"""Formats that one sparse kernel of the whole FFN knows; the others, dense among them, keep its products apart."""


class Ffn(Block):
    """y = (act(x Wg) * (x Wu)) Wd, or y = act(x Wu) Wd."""

    d_ff: int = Field(ge=1, description="neurons")
    gated: bool = Field(True, description="gate and up projections, or up alone")
    activation: str = Field("silu", description="silu, gelu, relu, relu2, ...; relu and relu2 leave zeros")
    bias: bool = Field(False, description="biases of the projections")
    sub_norm: bool = Field(False, description="a norm of width d_ff before the down projection (BitNet)")

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Two or three projections."""
        width = split(self.d_ff, tp, "FFN neurons")
        ups = 2 if self.gated else 1
        kept = (ups * width + d_model) * self.bias + width * self.sub_norm
        return Weights(linear=(ups + 1) * d_model * width, kept=kept)

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """The products and the activation, or one sparse kernel where the setting says how many neurons are active."""
        width = split(self.d_ff, setting.tp, "FFN neurons")
        sparsity = setting.layer_sparsity
        if sparsity is not None and sparsity.density is not None and sparsity.format in SPARSE and self.gated:
            op = SparseFfn(
                tokens=tokens,
                d_model=d_model,
                d_ff=width,
                nnz=sparsity.density * width,
                pattern=sparsity.pattern,
                format=sparsity.format,
                dtype=setting.precision.activations,
            )
            tasks = [Task("ffn.sparse", op)]
        else:
            tasks = dense_tasks("ffn", tokens, d_model, width, setting, self.gated, self.activation)
        return tasks + emit.all_reduce("ffn.allreduce", tokens, d_model, setting)


def dense_tasks(
    part: str, tokens: Array, d_model: int, width: int, setting: Setting, gated: bool, activation: str
) -> list[Task]:
    """Up (and gate), activation, down of `width` neurons on this rank; the down product's input may hold zeros."""
    sparsity = setting.layer_sparsity
    up_density = sparsity.projection("up") if sparsity else 1.0
    down_density = sparsity.projection("down") if sparsity else 1.0
    tasks: list[Task] = []
    if gated and setting.fused:
        tasks += emit.linear(f"{part}.gate_up", tokens, d_model, 2 * width, setting, up_density)
    elif gated:
        tasks += emit.linear(f"{part}.gate", tokens, d_model, width, setting, up_density)
        tasks += emit.linear(f"{part}.up", tokens, d_model, width, setting, up_density)
    else:
        tasks += emit.linear(f"{part}.up", tokens, d_model, width, setting, up_density)
    if gated:
        tasks += emit.gated_activation(f"{part}.activation", tokens, width, setting, activation)
    else:
        kind = "activation" if setting.fused else "function"
        tasks.append(emit.pointwise(f"{part}.activation", kind, tokens, width, setting))
    return tasks + emit.linear(f"{part}.down", tokens, width, d_model, setting, down_density)
