"""What a training step asks of a device, and what it keeps in memory, in closed form.

Time: a micro-batch runs the forward kernels, then the backward ones. A product y = x W has two in its backward (for x
and for W), each of its size; attention five products to the forward's two. A fused pass that reads r elements and
writes w reads the gradient of what it wrote and what it read, and writes a gradient for each input: (2 r + w) / (r + w)
of its bytes; an eager framework's pass has the kernels that its autograd formula launches. Recomputing adds the layers'
forward once more. Only the hybrid format trains sparse: otherwise FFNs run dense, whatever the activations. The loss
casts the logits to fp32 and takes a softmax and its gradient. The optimizer's pass over its state comes once in a
global batch.

Memory, bytes: states (weights in fp32 and a bf16 copy, fp32 gradients, the optimizer's moments), what autograd keeps of
every layer until its backward, and the largest of what lives briefly: the logits (bf16, fp32, and both gradients) or
the gradients inside one FFN. What a layer keeps, in elements a token: inputs of products, of norms and of
element-wise products; an eager norm keeps its fp32 input and its normalised output besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from sparsesim import laws
from sparsesim.errors import InputError, Problem
from sparsesim.model.arch import Model
from sparsesim.model.blocks import Block
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.ffn import Ffn
from sparsesim.model.setting import Setting
from sparsesim.work import (
    Array,
    AttentionBackward,
    AttentionFlash,
    AttentionPrefill,
    Copy,
    Gemm,
    Op,
    Pointwise,
    SparseFfn,
    SparseFfnTrain,
    Task,
    dtype_bytes,
)
from sparsesim.work.memory import PASSES

Saved = Literal["dense", "recomputed", "twell_hybrid"]
MOMENT_BYTES = {"adamw": 8.0, "adamw-8bit": 2.0, "sgd-momentum": 4.0, "sgd": 0.0}
"""Bytes of an optimizer's state for one parameter: two fp32 moments, two of 8 bits, one fp32, none."""
MASTER, COPY, GRADIENT = 4.0, 2.0, 4.0
"""Bytes of a parameter in mixed precision: fp32 weight, bf16 copy for the products, fp32 gradient."""
LOGIT_BYTES = 12.0
"""Of one logit while the loss is computed: bf16, fp32, and the gradients of both."""
ELL_SLOTS, TRANSPOSED_SLOTS = 128, 256
"""Active neurons a row, and tokens a neuron, that the hybrid format keeps sparse (facts: TwELL)."""
COLUMN, VALUE = 2.0, 2.0
"""Bytes of a slot's uint16 column and of one bf16 value."""
HYBRID_MEAN = 50
"""Mean active neurons of a layer up to which it is kept in the hybrid format (facts: TwELL)."""
TRAINED = "training takes attention and gated FFNs"
EAGER_BACKWARD: dict[str, tuple[tuple[str, float], ...]] = {
    "widen": (("narrow", 1), ("sum", 1)),
    "square": (("square", 1), ("square", 1), ("product", 1), ("sum", 1)),
    "mean": (("expand", 1),),
    "scale": (("product", 1), ("mean", 1), ("scale", 1)),
    "narrow": (("widen", 1),),
    "weight": (("weight", 1), ("product", 1), ("column_sum", 1)),
    "sum": (),
    "function": (("product", 1),),
    "product": (("product", 1), ("product", 1)),
    "rotate": (("rotate", 1),),
    "negate": (("negate", 1), ("write", 2), ("transpose", 1), ("sum", 2)),
    "concatenate": (("write", 1), ("transpose", 0.5)),
    "rotated_sum": (("rotated_sum", 1), ("transpose", 1)),
}
"""Kernels of PyTorch's autograd formula for an eager pass, each with its width over the pass's own. A square is copied,
doubled and multiplied by the gradient; a slice fills zeros and copies into them; where a value has two uses (a norm's
input, a head's halves, heads before rotation) its gradients are added; a rotated head's gradient is laid out anew. The
relu's formula reads the output and the gradient, as a product of two does.
"""
SHARED_INPUT = ("attention.k", "attention.v", "ffn.gate")
"""Products of an eager framework whose input another one reads (queries, up): one more gradient to add."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a step trains: sequences of a micro-batch and of a global one, their length, what is kept, the optimizer."""

    sequence_tok: float
    micro_batch: int
    global_batch: int
    optimizer: str = "adamw"
    saved: Saved = "dense"

    @property
    def tokens(self) -> float:
        """Of a micro-batch."""
        return self.micro_batch * self.sequence_tok


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Peak bytes of one device by use; `momentary` lives for a part of the step only."""

    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    saved_bytes: float
    momentary_bytes: float

    @property
    def peak_bytes(self) -> float:
        """All of them together."""
        held = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return held + self.saved_bytes + self.momentary_bytes


def training_tasks(model: Model, setting: Setting, recipe: Recipe) -> list[Task]:
    """Kernels of one micro-batch and its share of the optimizer's pass.

    Raises:
        InputError: the layout pipelines, or the model has kernels whose backward is not known.

    """
    if setting.pp > 1 or setting.dp > 1:
        raise InputError(Problem("training is costed for one copy of the model without pipelining", "deployment"))
    tokens = recipe.tokens
    if recipe.saved != "twell_hybrid":
        setting = replace(setting, sparsity=None)
    layers = model.token_tasks(tokens, setting)
    layers += model.chunk_tasks(recipe.micro_batch, recipe.sequence_tok, recipe.sequence_tok, setting)
    if recipe.saved == "twell_hybrid":
        layers = [one for task in layers for one in _hybrid(task)]
    head = [task for task in model.head_tasks(tokens, setting) if task.part != "head.sample"]
    backward = [task for one in (*layers, *head) for task in _backward(one)]
    again = layers if recipe.saved == "recomputed" else []
    return [*layers, *head, *_loss(tokens, model.vocab / setting.tp), *again, *backward, *_update(model, recipe)]


def _hybrid(task: Task) -> Iterator[Task]:
    """A sparse FFN as its training kernel, forward and backward in one; dense where too many neurons are active."""
    op = task.op
    if not isinstance(op, SparseFfn):
        yield task
    elif float(np.max(op.nnz)) <= HYBRID_MEAN:
        own = SparseFfnTrain(
            tokens=op.tokens, d_model=op.d_model, d_ff=op.d_ff, nnz=op.nnz, pattern=op.pattern, dtype=op.dtype
        )
        yield replace(task, op=own)
    else:
        yield replace(task, op=Gemm(m=op.tokens, n=2.0 * op.d_ff, k=op.d_model, dtype=op.dtype))
        yield replace(task, op=Pointwise(kind="relu_mul", tokens=op.tokens, width=op.d_ff, dtype=op.dtype))
        yield replace(task, op=Gemm(m=op.tokens, n=op.d_model, k=op.d_ff, dtype=op.dtype))


def _backward(task: Task) -> Iterator[Task]:
    """The kernels that give the gradients of a kernel's inputs and weights."""
    op, part = task.op, f"{task.part}.backward"
    if isinstance(op, SparseFfnTrain):
        return
    if isinstance(op, Gemm):
        yield Task(part, op, 2.0 * task.count)
        if task.part in SHARED_INPUT:
            yield Task(f"{part}.sum", Pointwise(kind="sum", tokens=op.m, width=op.k, dtype=op.dtype), task.count)
    elif isinstance(op, AttentionFlash):
        yield Task(part, AttentionBackward(**{field.name: getattr(op, field.name) for field in fields(op)}), task.count)
    elif isinstance(op, AttentionPrefill):
        yield Task(part, op, AttentionBackward.products / AttentionPrefill.products * task.count)
    elif isinstance(op, Pointwise) and op.kind in EAGER_BACKWARD:
        for kind, width in EAGER_BACKWARD[op.kind]:
            yield Task(f"{part}.{kind}", replace(op, kind=kind, width=width * op.width), task.count)
    elif isinstance(op, Pointwise):
        read, written = PASSES[op.kind]
        yield Task(part, op, (2 * read + written) / (read + written) * task.count)
    elif op.link_bytes() is not None and task.part.endswith(("allreduce", "gather")):
        yield Task(part, op, task.count)
    else:
        raise InputError(Problem(f"the backward of {op.op} ({task.part}) is not known: {TRAINED}"))


def _loss(tokens: Array, vocab: float) -> Iterator[Task]:
    """Logits to fp32, softmax, a gradient filled with zeros and then taken, and the gradient back to bf16."""
    for part, kind, dtype in (
        ("cast", "widen", "bf16"),
        ("softmax", "softmax", "fp32"),
        ("zeros", "write", "fp32"),
        ("gradient", "softmax", "fp32"),
        ("narrow", "narrow", "bf16"),
    ):
        yield Task(f"loss.{part}", Pointwise(kind=kind, tokens=tokens, width=vocab, dtype=dtype))


def _update(model: Model, recipe: Recipe) -> Iterator[Task]:
    """Gradients added up for every micro-batch; weights, gradients and moments read and written once a global batch."""
    added = (VALUE + 2 * GRADIENT) * model.parameters()
    yield Task("optimizer.accumulate", Copy(bytes=added / 2))
    moved = (2 * MASTER + COPY + GRADIENT + 2 * MOMENT_BYTES[recipe.optimizer]) * model.parameters()
    yield Task("optimizer.update", Copy(bytes=moved / 2), recipe.micro_batch / recipe.global_batch)


def training_memory(model: Model, setting: Setting, recipe: Recipe) -> TrainingMemory:
    """Peak memory of one device while it trains; context, communicators and fragments left out.

    Raises:
        InputError: a block's saved activations are not known.

    """
    parameters = model.parameters() / setting.tp
    kept = [_kept(block, one, model.d_model, recipe) for block, one in _layers(model, setting)]
    if recipe.saved == "recomputed":
        stream = model.d_model * dtype_bytes(setting.precision.stream) * recipe.tokens
        saved = stream * len(kept) + max(kept)
    else:
        saved = sum(kept)
    inside = max(3.0 * VALUE * getattr(block, "d_ff", 0) / setting.tp for block, _ in _layers(model, setting))
    logits = LOGIT_BYTES * model.vocab / setting.tp
    return TrainingMemory(
        weight_bytes=(MASTER + COPY) * parameters,
        gradient_bytes=GRADIENT * parameters,
        optimizer_bytes=MOMENT_BYTES[recipe.optimizer] * parameters,
        saved_bytes=saved,
        momentary_bytes=max(logits, inside) * recipe.tokens,
    )


def _layers(model: Model, setting: Setting) -> Iterator[tuple[Block, Setting]]:
    """Every block with the setting of its layer."""
    layers = [blocks for group in model.layers for blocks in (group.blocks,) * group.count]
    for index, blocks in enumerate(layers):
        own = setting.sparsity.layer(index, len(layers)) if setting.sparsity else None
        yield from ((block, replace(setting, layer_sparsity=own)) for block in blocks)


def _kept(block: Block, setting: Setting, d_model: int, recipe: Recipe) -> float:
    """Bytes that autograd keeps of a block."""
    size = dtype_bytes(setting.precision.stream)
    norm = size * d_model if setting.fused else (4.0 + size) * d_model
    entry = (norm + size * d_model) * recipe.tokens
    if isinstance(block, Attention):
        q, kv = block.widths(setting.tp)
        return entry + recipe.tokens * (size * 2 * (q + kv) + 4.0 * block.heads / setting.tp)
    if isinstance(block, Ffn):
        return entry + _ffn(block, setting, recipe)
    raise InputError(Problem(f"what {block.kind} keeps for its backward is not known: {TRAINED}"))


def _ffn(block: Ffn, setting: Setting, recipe: Recipe) -> float:
    """relu(gate), up and their product, or the same in the hybrid format; other activations keep their input too."""
    width = block.d_ff / setting.tp
    sparsity = setting.layer_sparsity
    mean = sparsity.density * block.d_ff if sparsity is not None and sparsity.density is not None else float("inf")
    if recipe.saved == "twell_hybrid" and mean <= HYBRID_MEAN:
        return _hybrid_bytes(block, setting, recipe)
    matrices = (3 if block.gated else 1) + (not block.activation.startswith("relu"))
    return matrices * width * dtype_bytes(setting.precision.stream) * recipe.tokens


def _hybrid_bytes(block: Ffn, setting: Setting, recipe: Recipe) -> float:
    """Rows of 128 slots with a column and three values, tokens by neuron in 256 slots, dense rows for the tail."""
    assert setting.layer_sparsity is not None
    pmf = laws.row_nnz_distribution(setting.layer_sparsity.law(block.d_ff))
    tail = float(pmf[ELL_SLOTS + 1 :].sum())
    rows = ELL_SLOTS * (COLUMN + 3 * VALUE) + tail * 3 * VALUE * block.d_ff
    return rows * recipe.tokens + block.d_ff * TRANSPOSED_SLOTS * (COLUMN + VALUE)


__all__ = ["MOMENT_BYTES", "Op", "Recipe", "Saved", "TrainingMemory", "training_memory", "training_tasks"]
