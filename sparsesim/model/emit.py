"""The kernels behind one logical step of a layer: a serving engine's fused ones, or an eager framework's passes.

Eager passes follow the plain PyTorch modules of Hugging Face transformers (LlamaRMSNorm, apply_rotary_pos_emb,
LlamaMLP): an RMS norm casts to fp32, squares, averages, scales, casts back and multiplies by its weight.
"""

from __future__ import annotations

from collections.abc import Iterable

from sparsesim.model.setting import Setting
from sparsesim.work import AllGather, AllReduce, Array, Gemm, Pointwise, ReduceScatter, Task, ThresholdGemv, dtype_bytes


def linear(
    part: str,
    tokens: Array,
    inputs: float,
    outputs: float,
    setting: Setting,
    density: float = 1.0,
    *,
    kept: bool = False,
    storage: str = "",
) -> list[Task]:
    """A matrix product in the setting's precision, after quantising its input where that is 8 bits or less.

    `kept` products (router, LM head) stay in the stream's precision, their weights too unless `storage` names another.
    Where the sparsity's format is threshold, a product whose input has zeros skips the weights' columns.
    """
    precision = setting.precision
    if density < 1.0 and _skips(setting):
        dtype = (storage or precision.stream) if kept else precision.weights
        return [Task(part, ThresholdGemv(tokens=tokens, d_in=inputs, d_out=outputs, density=density, dtype=dtype))]
    if kept:
        op = Gemm(m=tokens, n=outputs, k=inputs, dtype=precision.stream, weights=storage, density=density)
        return [Task(part, op)]
    return [
        *quantized(part, tokens, inputs, setting),
        Task(
            part,
            Gemm(
                m=tokens,
                n=outputs,
                k=inputs,
                dtype=precision.activations,
                weights=stored(precision.weights, precision.activations),
                density=density,
            ),
        ),
    ]


def _skips(setting: Setting) -> bool:
    chosen = setting.layer_sparsity or setting.sparsity
    return chosen is not None and chosen.format == "threshold"


def stored(weights: str, activations: str) -> str:
    """An op's `weights` column: empty where weights have the activations' dtype."""
    return "" if weights == activations else weights


def quantized(part: str, tokens: Array, width: float, setting: Setting) -> list[Task]:
    """The pass that quantises a product's input; none where activations stay 16 bits."""
    if dtype_bytes(setting.precision.activations) >= dtype_bytes(setting.precision.stream):
        return []
    return [pointwise(f"{part}.quantize", "quantize", tokens, width, setting)]


def pointwise(part: str, kind: str, tokens: Array, width: Array, setting: Setting, dtype: str = "") -> Task:
    """One pass over [tokens, width] in the stream's dtype."""
    return Task(part, Pointwise(kind=kind, tokens=tokens, width=width, dtype=dtype or setting.precision.stream))


def norm(part: str, tokens: Array, width: float, setting: Setting) -> list[Task]:
    """A norm on its own."""
    if setting.fused:
        return [pointwise(part, "norm", tokens, width, setting)]
    return [
        pointwise(f"{part}.cast", "widen", tokens, width, setting),
        pointwise(f"{part}.square", "square", tokens, width, setting, "fp32"),
        pointwise(f"{part}.mean", "mean", tokens, width, setting, "fp32"),
        pointwise(f"{part}.scale", "scale", tokens, width, setting, "fp32"),
        pointwise(f"{part}.narrow", "narrow", tokens, width, setting),
        pointwise(f"{part}.weight", "weight", tokens, width, setting),
    ]


def add_norm(part: str, tokens: Array, width: float, setting: Setting) -> list[Task]:
    """The residual's sum and the norm of it, which a serving engine does in one kernel."""
    if setting.fused:
        return [pointwise(part, "add_norm", tokens, width, setting)]
    return [pointwise(f"{part}.residual", "sum", tokens, width, setting), *norm(part, tokens, width, setting)]


def rope(part: str, tokens: Array, widths: Iterable[float], setting: Setting) -> list[Task]:
    """Rotary embedding of queries and keys of the given widths; eager: negate half, concatenate, two products, sum."""
    widths = tuple(widths)
    if setting.fused:
        return [pointwise(part, "rope", tokens, sum(widths), setting)]
    tasks = []
    for width in widths:
        tasks += [
            pointwise(f"{part}.cosine", "rotate", tokens, width, setting),
            pointwise(f"{part}.negate", "negate", tokens, width / 2, setting),
            pointwise(f"{part}.concatenate", "concatenate", tokens, width, setting),
            pointwise(f"{part}.sine", "rotate", tokens, width, setting),
            pointwise(f"{part}.sum", "rotated_sum", tokens, width, setting),
        ]
    return tasks


def gated_activation(part: str, tokens: Array, width: float, setting: Setting, activation: str) -> list[Task]:
    """act(gate) * up, one kernel or two."""
    if setting.fused:
        kind = "relu_mul" if activation.startswith("relu") else "silu_mul"
        return [pointwise(part, kind, tokens, width, setting)]
    return [
        pointwise(f"{part}.function", "function", tokens, width, setting),
        pointwise(f"{part}.product", "product", tokens, width, setting),
    ]


def all_reduce(part: str, tokens: Array, width: float, setting: Setting) -> list[Task]:
    """The sum of partial outputs over the tensor-parallel ranks; none at tp 1."""
    if setting.tp == 1:
        return []
    dtype = setting.precision.stream
    size = tokens * width * dtype_bytes(dtype)
    return [Task(part, AllReduce(gpus=setting.tp, nodes=setting.nodes(setting.tp), bytes=size, dtype=dtype))]


def all_gather(part: str, tokens: Array, width: float, gpus: int, setting: Setting) -> list[Task]:
    """Shards of [tokens, width] made whole on every one of `gpus` ranks."""
    dtype = setting.precision.stream
    size = tokens * width * dtype_bytes(dtype)
    return [Task(part, AllGather(gpus=gpus, nodes=setting.nodes(gpus), bytes=size, dtype=dtype))]


def reduce_scatter(part: str, tokens: Array, width: float, gpus: int, setting: Setting) -> list[Task]:
    """Partial sums of [tokens, width] reduced, each of `gpus` ranks keeping its share."""
    dtype = setting.precision.stream
    size = tokens * width * dtype_bytes(dtype)
    return [Task(part, ReduceScatter(gpus=gpus, nodes=setting.nodes(gpus), bytes=size, dtype=dtype))]
