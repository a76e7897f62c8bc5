"""How a model is laid over devices and in which precision: everything about a step but its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from sparsesim.errors import InputError, Problem, closest
from sparsesim.families import Frozen
from sparsesim.model.sparsity import LayerSparsity, Sparsity
from sparsesim.work import dtype_bytes
from sparsesim.work.base import DTYPE_BYTES

_HALF_BYTES = 2.0


class Precision(Frozen):
    """Storage dtypes by role; names as in `work.base.DTYPE_BYTES`.

    The recurrent state defaults to bf16, which is what mamba_ssm's `allocate_inference_cache` and vLLM's
    `mamba_ssm_cache_dtype: auto` hold it in; models that publish fp32 say so.
    """

    weights: str = Field("bf16", description="of the layers' matrices")
    activations: str = Field("bf16", description="inputs of the matrix products")
    kv: str = Field("bf16", description="of the key-value cache")
    state: str = Field("bf16", description="of the recurrent state")
    experts: str = Field("", description="of routed experts where it differs from weights")
    head: str = Field("", description="of the LM head where an engine quantises it too; empty: kept as the stream")
    scale_bytes: float = Field(0.0, ge=0.0, description="quantisation scales per element, beyond the dtype's own")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for role in ("weights", "activations", "kv", "state", "experts", "head"):
            dtype = getattr(self, role)
            if dtype and dtype not in DTYPE_BYTES:
                raise ValueError(f"{role}: unknown dtype {dtype!r}; {closest(dtype, DTYPE_BYTES)}")
        for role in ("weights", "experts"):
            dtype = getattr(self, role)
            if dtype and dtype_bytes(dtype) > max(dtype_bytes(self.activations), _HALF_BYTES):
                raise ValueError(f"{role}: {dtype!r} is wider than the activations, {self.activations!r}")
        return self

    @property
    def stream(self) -> str:
        """Of the residual stream, norms and outputs: bf16 where the products' inputs are narrower."""
        return self.activations if dtype_bytes(self.activations) >= _HALF_BYTES else "bf16"

    @property
    def kept(self) -> str:
        """Of norms, embeddings, router and LM head, which quantisation leaves alone."""
        return self.weights if dtype_bytes(self.weights) >= _HALF_BYTES else "bf16"

    @property
    def expert_weights(self) -> str:
        """Of the routed experts."""
        return self.experts or self.weights

    def weight_bytes_each(self, dtype: str) -> float:
        """Bytes of one stored element with its share of the scales; only quantised dtypes have scales."""
        size = dtype_bytes(dtype)
        return size + (self.scale_bytes if size < _HALF_BYTES else 0.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """Parallel layout, precision, expert load and sparsity of a step.

    A replica has tp*dp*pp devices: attention is split over tp and replicated over dp, experts are spread over
    ep ranks and each is split tp*dp/ep ways; `redundant` slots beyond one per expert hold copies of some, or nothing.
    `experts_apart`: the routed experts are on other devices, and this setting is that of all the rest.
    `fused` is a serving engine's kernels; without it every pass of an eager framework is launched on its own.
    """

    tp: int = 1
    dp: int = 1
    ep: int = 1
    pp: int = 1
    gpus_per_node: int = 8
    precision: Precision = Precision()
    expert_load: str = "uniform"
    sparsity: Sparsity | None = None
    fused: bool = True
    layer_sparsity: LayerSparsity | None = None
    redundant: int = 0
    experts_apart: bool = False

    def __post_init__(self) -> None:
        """Raise InputError where a degree is below one, slots are missing, or ep does not divide the ranks."""
        if self.redundant < 0:
            raise InputError(Problem(f"redundant {self.redundant} must be at least 0", path="redundant"))
        for name in ("tp", "dp", "ep", "pp", "gpus_per_node"):
            if getattr(self, name) < 1:
                raise InputError(Problem(f"{name} {getattr(self, name)} must be at least 1", path=name))
        if self.ranks % self.ep:
            raise InputError(
                Problem(f"ep {self.ep} does not divide tp*dp = {self.tp}*{self.dp} = {self.ranks}", path="ep")
            )

    @property
    def ranks(self) -> int:
        """Devices of a pipeline stage: those the experts are spread over."""
        return self.tp * self.dp

    def nodes(self, gpus: int) -> int:
        """Nodes that a group of devices spans when it fills node after node."""
        return -(-gpus // self.gpus_per_node)
