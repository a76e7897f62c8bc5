"""What `bench_eager_layer` measures: layers, heads and optimizers of a stated size, ready to be called.

`stream` is `plain` (parameters and residual stream in the products' type) or `autocast` (both in fp32).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend

from calibration.kernels.eager_layer import (
    BF16,
    EagerLayer,
    Hidden,
    Parts,
    Span,
    centred,
    linear,
    random_parts,
    residual_stream,
    rms_norm,
    traced,
    untraced,
)
from sparsesim import laws
from sparsesim.kernels.common.checks import assert_close, relative_error
from sparsesim.kernels.twell.synthetic import synthetic_layer

Stream = Literal["plain", "autocast"]
STREAMS: tuple[Stream, ...] = ("plain", "autocast")
GRADIENT_BOUND = 0.05
"""Accepted relative error of a gradient: a gate whose sign bf16 turns has a gradient or none."""
CHECKED_TOKENS = 256


@dataclass(frozen=True)
class Sizes:
    """Shapes of a run; `tokens` a sequence.

    `busy`: active neurons of a dense FFN without regularisation, and of one with half of its gates open. `narrow`: type
    of the products, fp16 under Triton's interpreter, which has no bf16.
    """

    width: int = 2048
    neurons: int = 5632
    vocabulary: int = 49152
    tokens: int = 2048
    forward: tuple[int, ...] = (64, 8)
    micro_batches: tuple[int, ...] = (6, 1, 2)
    nnz: tuple[int, ...] = (29, 24, 39)
    busy: tuple[int, ...] = (911, 2816)
    device: str = "cuda"
    narrow: Any = BF16

    def dtype(self, of: Stream) -> Any:
        """Of parameters and residual stream."""
        return self.narrow if of == "plain" else torch.float32

    def context(self, of: Stream) -> AbstractContextManager[Any]:
        """Around a forward."""
        return nullcontext() if of == "plain" else torch.autocast(self.device, dtype=self.narrow)

    def entry(self, sequences: int, of: Stream) -> Any:
        """A residual stream."""
        return residual_stream(sequences, self.tokens, self.width, self.dtype(of), self.device)


def tiny(device: str) -> Sizes:
    """Shapes that a CPU interprets in seconds."""
    narrow = BF16 if device == "cuda" else torch.float16
    return Sizes(128, 512, 256, 16, (2,), (2,), (8,), (200,), device, narrow)


def make_layer(sizes: Sizes, nnz: float, hidden: Hidden, of: Stream = "plain") -> EagerLayer:
    """A random layer with `nnz` active neurons of Zipf frequencies, its FFN's input as the gate wants it."""
    law = laws.ActivationLaw(laws.shuffled(laws.zipf_frequencies(sizes.neurons, float(nnz)), 0))
    parts = random_parts(synthetic_layer(law, sizes.width, sizes.narrow, sizes.device, seed=1), sizes.dtype(of), hidden)
    layer = EagerLayer(parts, sizes.tokens, hidden, sizes.narrow)
    with sizes.context(of):
        return centred(layer, sizes.entry(1, of))


def mean_nnz(layer: EagerLayer, x: Any) -> float:
    """Active neurons a token, as measured on the first sequences."""
    with torch.no_grad():
        entry = layer.entry(x[:4])
        return int((entry @ layer.parts.gate.T > 0).sum()) / len(entry)


def without_gradients(layer: EagerLayer, x: Any, span: Span = untraced) -> Callable[[], None]:
    """A call of the layer that drops its output."""

    def call() -> None:
        layer.span = span
        with torch.no_grad():
            layer(x)
        layer.span = untraced

    return call


@dataclass
class Head:
    """A model without layers: embedding, final norm, tied head, cross entropy in fp32."""

    table: Any
    norm: Any
    span: Span = untraced

    def __call__(self, tokens: Any) -> Any:
        """Mean loss over [sequences, tokens], each predicting itself: as many logits as tokens, no copy of them."""
        with self.span("embedding"):
            x = functional.embedding(tokens, self.table)
        x = rms_norm("head.norm", x, self.norm, self.span)
        logits = linear("head.lm_head", x, self.table, self.span)
        with self.span("loss.cast"):
            logits = logits.float()
        with self.span("loss.cross_entropy"):
            return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


@dataclass
class Step:
    """A forward and a backward; gradients of the parameters are added up, that of `x` is dropped."""

    forward: Callable[[], Any]
    gradient: Any
    spanned: EagerLayer | Head
    x: Any = None

    def __call__(self) -> None:
        """Both."""
        self.drop()
        self.forward().backward(self.gradient)

    def drop(self) -> None:
        """Free the input's gradient."""
        if self.x is not None:
            self.x.grad = None

    def traced(self) -> None:
        """Both, with spans."""
        self.spanned.span = traced
        self()
        self.spanned.span = untraced


def training_step(sizes: Sizes, micro_batch: int, hidden: Hidden, nnz: int, of: Stream) -> Step:
    """One layer, its input needing a gradient too."""
    layer = make_layer(sizes, nnz, hidden, of)
    for one in layer.parts.all():
        one.requires_grad_()
    x = sizes.entry(micro_batch, of).requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator(sizes.device).manual_seed(3), device=sizes.device)

    def forward() -> Any:
        with sizes.context(of):
            return layer(x)

    return Step(forward, gradient.to(x.dtype), layer, x)


def head_step(sizes: Sizes, micro_batch: int, of: Stream) -> Step:
    """A model without layers."""
    table = (torch.randn(sizes.vocabulary, sizes.width, device=sizes.device) * sizes.width**-0.5).to(sizes.dtype(of))
    norm = torch.ones(sizes.width, device=sizes.device, dtype=sizes.dtype(of))
    head = Head(table.requires_grad_(), norm.requires_grad_())
    tokens = torch.randint(sizes.vocabulary, (micro_batch, sizes.tokens), device=sizes.device)

    def forward() -> Any:
        with sizes.context(of):
            return head(tokens)

    return Step(forward, None, head)


def optimizer_calls(parts: Parts) -> dict[str, Callable[[], object]]:
    """What happens to one layer's parameters around the backward, with fp32 master weights and gradients."""
    masters = [one.detach().float().requires_grad_() for one in parts.all()]
    copies, sources = [one.detach().clone() for one in parts.all()], [one.detach() for one in masters]
    fresh = [torch.randn_like(one) for one in copies]
    gradients = [torch.randn_like(one) for one in sources]
    calls: dict[str, Callable[[], object]] = {
        "accumulate": lambda: torch._foreach_add_(gradients, fresh),
        "clip": lambda: torch.nn.utils.clip_grad_norm_(masters, 1e9),
        "copy": lambda: torch._foreach_copy_(copies, sources),
    }
    for one, gradient in zip(masters, gradients, strict=True):
        one.grad = gradient
    for kind in ("foreach", "fused"):
        calls[f"adamw {kind}"] = torch.optim.AdamW(masters, lr=1e-5, **{kind: True}).step
    return calls | {"zero_grad": lambda: torch._foreach_zero_(gradients)}


def check(sizes: Sizes) -> dict[str, float]:
    """Relative errors of every FFN's layer, and of its gradients, against the eager layer; raises where large."""
    small = Sizes(sizes.width, sizes.neurons, sizes.vocabulary, min(sizes.tokens, CHECKED_TOKENS),
                  device=sizes.device, narrow=sizes.narrow)  # fmt: skip
    nnz, x, errors = sizes.nnz[0], small.entry(1, "plain"), {}
    wide = Parts(*(one.float() for one in make_layer(small, nnz, "dense_eager").parts.all()))
    with torch.no_grad():
        reference = EagerLayer(wide, small.tokens, "dense_eager", backend=SDPBackend.MATH)(x.float())
        kinds: tuple[Hidden, ...] = ("dense_eager", "dense_fused", "twell", "hot_cold")
        for hidden in kinds:
            errors[hidden] = assert_close(hidden, make_layer(small, nnz, hidden)(x), reference, BF16)
    for of in STREAMS:
        errors[f"gradient {of}"] = _gradient_error(small, nnz, of)
    return errors


def _gradient_error(sizes: Sizes, nnz: int, of: Stream) -> float:
    """Of the input's gradient beside the residual's own: sparse against dense."""
    found = []
    kinds: tuple[Hidden, ...] = ("sparse_train", "dense_eager")
    for hidden in kinds:
        step = training_step(sizes, 1, hidden, nnz, of)
        step()
        found.append(step.x.grad - step.gradient)
    error = relative_error(*found)
    if not error <= GRADIENT_BOUND:
        raise AssertionError(f"gradient, {of}: relative error {error:.3g} exceeds {GRADIENT_BOUND}")
    return error
