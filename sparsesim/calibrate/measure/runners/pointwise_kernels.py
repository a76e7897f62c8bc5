"""Fused passes over activations [tokens, width] as engines launch them, in Triton."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def elementwise_kernel(a, b, out, size, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """One output per element from one or two inputs."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    x = tl.load(a + offset, mask=inside, other=0.0).to(tl.float32)
    if KIND == "residual":
        y = x + tl.load(b + offset, mask=inside, other=0.0).to(tl.float32)
    elif KIND == "silu_mul":
        y = x * tl.sigmoid(x) * tl.load(b + offset, mask=inside, other=0.0).to(tl.float32)
    elif KIND == "relu_mul":
        y = tl.maximum(x, 0.0) * tl.load(b + offset, mask=inside, other=0.0).to(tl.float32)
    elif KIND == "activation":
        y = x * tl.sigmoid(x)
    else:
        y = x
    tl.store(out + offset, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_kernel(x, residual, weight, summed, out, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """RMS norm of one row a program; ADD first adds the residual and writes the sum."""
    column = tl.arange(0, BLOCK)
    inside = column < width
    offset = tl.program_id(0).to(tl.int64) * width + column
    value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(summed + offset, value.to(summed.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + offset, (value * scale * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def rope_kernel(x, cosine, sine, out, pairs, PAIR: tl.constexpr, BLOCK: tl.constexpr):
    """Rotary embedding: heads of 2 PAIR elements, element j turns with element j + PAIR; pairs: width / 2."""
    row = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < pairs
    turn = pair % PAIR
    first = row * 2 * pairs + (pair // PAIR) * 2 * PAIR + turn
    a = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + first + PAIR, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cosine + row * PAIR + turn, mask=inside, other=0.0)
    s = tl.load(sine + row * PAIR + turn, mask=inside, other=0.0)
    tl.store(out + first, (a * c - b * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + first + PAIR, (b * c + a * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def quantize_kernel(x, out, scales, groups, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """fp8 (e4m3, largest 448) with one fp32 scale per WIDTH elements."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inside = group < groups
    offset = group[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    value = tl.load(x + offset, mask=inside[:, None], other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), 1), 1e-10) / 448.0
    tl.store(out + offset, (value / scale[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(scales + group, scale, mask=inside)


@triton.jit
def topk_kernel(x, values, indices, width, K: tl.constexpr, BLOCK: tl.constexpr):
    """The K largest of one row a program, largest first."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    left = tl.load(x + row * width + column, mask=column < width, other=float("-inf")).to(tl.float32)
    for rank in tl.static_range(K):
        best = tl.argmax(left, 0)
        tl.store(values + row * K + rank, tl.max(left, 0))
        tl.store(indices + row * K + rank, best)
        left = tl.where(column == best, float("-inf"), left)


@triton.jit
def conv_kernel(x, weight, out, tokens, width, T: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr):
    """Causal depthwise convolution over tokens and SiLU; weight [TAPS, width]."""
    token = tl.program_id(0) * T + tl.arange(0, T)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    there = channel < width
    total = tl.zeros((T, C), tl.float32)
    for tap in tl.static_range(TAPS):
        source = token - (TAPS - 1) + tap
        mask = (source >= 0)[:, None] & (source < tokens)[:, None] & there[None, :]
        part = tl.load(x + source.to(tl.int64)[:, None] * width + channel[None, :], mask=mask, other=0.0)
        gain = tl.load(weight + tap * width + channel, mask=there, other=0.0)
        total += part.to(tl.float32) * gain.to(tl.float32)[None, :]
    offset = token.to(tl.int64)[:, None] * width + channel[None, :]
    mask = (token < tokens)[:, None] & there[None, :]
    tl.store(out + offset, (total * tl.sigmoid(total)).to(out.dtype.element_ty), mask=mask)


@triton.jit
def read_kernel(x, sums, size, BLOCK: tl.constexpr):
    """Sum of each block of BLOCK elements: reads everything, writes next to nothing."""
    block = tl.program_id(0)
    offset = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + offset, mask=offset < size, other=0.0).to(tl.float32)
    tl.store(sums + block, tl.sum(value, 0))
