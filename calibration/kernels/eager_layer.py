"""A layer of the TwELL paper as plain PyTorch modules write it, every pass launched on its own.

The definitions are those of Hugging Face transformers (LlamaRMSNorm, apply_rotary_pos_emb, LlamaMLP) that
`sparsesim.model.emit` counts, under the names of its tasks: each operator runs inside a span, so that a trace of the
kernels can be held against the model pass by pass. A residual sum has the name of the norm that follows it.

The residual stream is bf16 with bf16 parameters, or fp32 with fp32 parameters under autocast, where a linear casts its
weight and its input each time. `hidden` is the feed-forward part: dense in two ways, or one of the sparse kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsesim.kernels.twell.dense import dense_fused
from sparsesim.kernels.twell.ffn import ffn
from sparsesim.kernels.twell.synthetic import BIAS, SyntheticLayer
from sparsesim.kernels.twell.training import sparse_ffn_train
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights

Span = Callable[[str], AbstractContextManager[Any]]
Hidden = Literal["dense_eager", "dense_fused", "twell", "hot_cold", "sparse_train"]
BF16 = torch.bfloat16
FLASH = SDPBackend.FLASH_ATTENTION
ORDERED = ("hot_cold", "sparse_train")
HEAD_WIDTH = 64
EPSILON = 1e-6
ROPE_BASE = 1e4


def untraced(name: str) -> AbstractContextManager[Any]:
    """No span: what timings use, since a span costs the host some microseconds."""
    del name
    return nullcontext()


def traced(name: str) -> AbstractContextManager[Any]:
    """A span that the profiler sees."""
    return torch.profiler.record_function(SPAN + name)


SPAN = "pass: "
"""Begins a span's name in a trace."""


@dataclass
class Parts:
    """Parameters of one layer, [outputs, inputs]; `down` is [inputs, outputs] for all but the eager dense FFN."""

    attention_norm: Any
    query: Any
    key: Any
    value: Any
    out: Any
    ffn_norm: Any
    gate: Any
    up: Any
    down: Any

    def all(self) -> list[Any]:
        """Every parameter."""
        return list(vars(self).values())


def rms_norm(part: str, x: Any, weight: Any, span: Span) -> Any:
    """LlamaRMSNorm: fp32 inside, back in the stream's type before the weight."""
    with span(f"{part}.cast"):
        wide = x.to(torch.float32)
    with span(f"{part}.square"):
        squares = wide.pow(2)
    with span(f"{part}.mean"):
        mean = squares.mean(-1, keepdim=True)
    del squares
    with span(f"{part}.rsqrt"):
        scale = torch.rsqrt(mean + EPSILON)
    with span(f"{part}.scale"):
        wide = wide * scale
    with span(f"{part}.narrow"):
        narrow = wide.to(x.dtype)
    del wide
    with span(f"{part}.weight"):
        return weight * narrow


def rotary(x: Any, cosine: Any, sine: Any, span: Span) -> Any:
    """apply_rotary_pos_emb of x [sequences, heads, tokens, head width]."""
    half = x.shape[-1] // 2
    with span("attention.rope.cosine"):
        turned = x * cosine
    with span("attention.rope.negate"):
        negated = -x[..., half:]
    with span("attention.rope.concatenate"):
        rotated = torch.cat((negated, x[..., :half]), dim=-1)
    with span("attention.rope.sine"):
        rotated = rotated * sine
    with span("attention.rope.sum"):
        return turned + rotated


def linear(part: str, x: Any, weight: Any, span: Span) -> Any:
    """A product without bias."""
    with span(part):
        return functional.linear(x, weight)


class EagerLayer:
    """Attention and gated ReLU FFN between residual sums, as `y = layer(x)` of x [sequences, tokens, width]."""

    def __init__(self, parts: Parts, tokens: int, hidden: Hidden, narrow: Any = BF16, backend: Any = FLASH) -> None:
        self.parts, self.hidden, self.narrow, self.backend = parts, hidden, narrow, backend
        self.span: Span = untraced
        weight = parts.attention_norm
        turn = ROPE_BASE ** (-torch.arange(0, HEAD_WIDTH, 2, device=weight.device) / HEAD_WIDTH)
        angle = torch.outer(torch.arange(tokens, device=weight.device), turn).repeat(1, 2)
        self.cosine, self.sine = (part.to(weight.dtype)[None, None] for part in (angle.cos(), angle.sin()))
        self.fused = FusedWeights.of(self.rows()) if hidden == "dense_fused" else None

    def rows(self) -> FfnWeights:
        """The FFN's matrices in the products' type, neuron by neuron."""
        parts = self.parts
        return FfnWeights(*(one.to(self.narrow) for one in (parts.gate, parts.up, parts.down)))

    def __call__(self, x: Any) -> Any:
        """The layer."""
        span, parts = self.span, self.parts
        attended = self.attention(rms_norm("attention.norm", x, parts.attention_norm, span))
        with span("ffn.norm.residual"):
            x = x + attended
        del attended
        y = self.feed_forward(rms_norm("ffn.norm", x, parts.ffn_norm, span))
        with span("attention.norm.residual"):
            return x + y

    def entry(self, x: Any) -> Any:
        """What the feed-forward part is given, [sequences * tokens, width]."""
        attended = self.attention(rms_norm("attention.norm", x, self.parts.attention_norm, self.span))
        return rms_norm("ffn.norm", x + attended, self.parts.ffn_norm, self.span).flatten(0, 1)

    def attention(self, x: Any) -> Any:
        """Causal attention by the layer's backend alone: where it does not apply, PyTorch raises."""
        span, parts, (sequences, tokens, width) = self.span, self.parts, x.shape
        shape = (sequences, tokens, width // HEAD_WIDTH, HEAD_WIDTH)
        projected = [linear(f"attention.{name}", x, weight, span)
                     for name, weight in (("q", parts.query), ("k", parts.key), ("v", parts.value))]  # fmt: skip
        with span("attention.heads"):
            query, key, value = (one.view(shape).transpose(1, 2) for one in projected)
        del projected
        query, key = (rotary(one, self.cosine, self.sine, span) for one in (query, key))
        with span("attention.core"), sdpa_kernel(self.backend):
            out = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        del query, key, value
        with span("attention.transpose"):
            out = out.transpose(1, 2).contiguous().view(sequences, tokens, width)
        return linear("attention.out", out, parts.out, span)

    def feed_forward(self, x: Any) -> Any:
        """The FFN by this layer's kernels."""
        parts, span = self.parts, self.span
        if self.hidden != "dense_eager":
            with span("ffn.sparse" if self.hidden != "dense_fused" else "ffn.fused"):
                return self.own_kernels(x.flatten(0, 1)).view(x.shape)
        gate = linear("ffn.gate", x, parts.gate, span)
        with span("ffn.activation.function"):
            gate = torch.relu(gate)
        up = linear("ffn.up", x, parts.up, span)
        with span("ffn.activation.product"):
            product = gate * up
        del gate, up
        return linear("ffn.down", product, parts.down, span)

    def own_kernels(self, x: Any) -> Any:
        """The project's kernels, in the products' type whatever the parameters'; only `sparse_train` has a backward."""
        if self.hidden == "dense_fused":
            return dense_fused(x, self.fused)
        if self.hidden == "sparse_train":
            return sparse_ffn_train(x.to(self.narrow), self.rows())
        return ffn(x, self.rows(), self.hidden)


def random_parts(layer: SyntheticLayer, dtype: Any, hidden: Hidden, seed: int = 7) -> Parts:
    """Parameters with a synthetic gate, its most frequent neurons first where the kernels of `hidden` want that.

    The synthetic gate wants a constant first and an empty second input (`twell.synthetic`). The attention's output adds
    nothing to either, so that both pass through the residual sum and the norm.
    """
    own = layer.weights
    rows = own.by_frequency(layer.law.frequency) if hidden in ORDERED else own
    generator = torch.Generator(device=own.gate.device).manual_seed(seed)

    def matrix() -> Any:
        return torch.randn(own.width, own.width, generator=generator, device=own.gate.device) * own.width**-0.5

    query, key, value, out = (matrix() for _ in range(4))
    out[:2] = 0.0
    ones = torch.ones(own.width, device=own.gate.device)
    down = rows.down.T.contiguous() if hidden == "dense_eager" else rows.down
    matrices = (ones, query, key, value, out, ones.clone(), rows.gate, rows.up, down)
    return Parts(*(each.to(dtype) for each in matrices))


def residual_stream(sequences: int, tokens: int, width: int, dtype: Any, device: Any, seed: int = 11) -> Any:
    """A residual stream [sequences, tokens, width] whose first column is constant and whose second is empty."""
    generator = torch.Generator(device=device).manual_seed(seed)
    x = torch.randn(sequences, tokens, width, generator=generator, device=device, dtype=dtype)
    x[..., 0], x[..., 1] = BIAS, 0.0
    return x


def centred(layer: EagerLayer, x: Any) -> EagerLayer:
    """Scale the FFN norm's first weight so that the gate's constant input is the one its thresholds are made for."""
    with torch.no_grad():
        constant = float(layer.entry(x[:1])[:, 0].float().mean())
        layer.parts.ffn_norm[0] *= BIAS / constant
    return layer
