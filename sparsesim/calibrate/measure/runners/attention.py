"""Grouped-query attention by the kernels PyTorch ships: FlashAttention-2 (split-KV when decoding) and cuDNN's.

The operators are called directly, so that nothing falls back to the unfused form and keys are not repeated per head.
Queries, keys and values are [batch, tokens, heads, head_dim]; causal masks are aligned to the last token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import AttentionBackward, AttentionDecode, AttentionFlash, AttentionPrefill

_CHECKED_QUERIES = 12
BACKWARD_BOUND = 2e-2
"""Of gradients: probabilities and their gradients are rounded to bf16 on the way."""


@dataclass(frozen=True, slots=True)
class _Buffers:
    q: Any
    k: Any
    v: Any


def prefill(op: AttentionPrefill, bench: Bench) -> Sequence[Candidate]:
    """FlashAttention-2, and cuDNN for whole prompts without a window."""
    sets = _sets(op, bench, int(op.kv_tok))
    window = _window(op)
    found = [_candidate("flash", sets, window, [partial(flash, b.q, b.k, b.v, window) for b in sets])]
    if math.isinf(window) and op.q_tok == op.kv_tok:
        found.append(_candidate("cudnn", sets, window, [partial(cudnn, b.q, b.k, b.v, True) for b in sets]))
    return _for_device(found, sets, window, bench)


def _window(op: AttentionPrefill) -> float:
    """The window where it bites, else infinity."""
    return math.inf if op.window >= op.kv_tok else float(op.window)


def prefill_flash(op: AttentionFlash, bench: Bench) -> Sequence[Candidate]:
    """FlashAttention-2 alone."""
    sets, window = _sets(op, bench, int(op.kv_tok)), _window(op)
    found = [_candidate("flash", sets, window, [partial(flash, b.q, b.k, b.v, window) for b in sets])]
    return _for_device(found, sets, window, bench)


def backward(op: AttentionBackward, bench: Bench) -> Sequence[Candidate]:
    """FlashAttention-2's gradients, those of the queries held against autograd over fp32 attention of one head."""
    if bench.device != "cuda":
        raise UnsupportedError("attention_backward: the host has no such kernel")
    sets, window = _sets(op, bench, int(op.kv_tok)), _window(op)
    upstream = [bench.inputs.take(*b.q.shape) for b in sets]
    kept = [forward_for_backward(b.q, b.k, b.v, window) for b in sets]
    calls = [partial(flash_backward, g, b.q, b.k, b.v, k, window) for g, b, k in zip(upstream, sets, kept, strict=True)]

    def check(out: Any) -> tuple[Any, Any]:
        return out[0][0, :, 0], query_gradient(sets[0].q, sets[0].k, sets[0].v, upstream[0], window)

    return [Candidate("flash", calls, check, bound=BACKWARD_BOUND)]


def decode(op: AttentionDecode, bench: Bench) -> Sequence[Candidate]:
    """FlashAttention-2 with split keys, and cuDNN for one new token; a window reads its slice of the cache."""
    reach = int(min(op.kv_tok, op.window + op.q_tok - 1))
    sets = _sets(op, bench, reach)
    window = float(op.window) if reach > op.window else math.inf
    found = [_candidate("flash", sets, window, [partial(flash, b.q, b.k, b.v, window) for b in sets])]
    if op.q_tok == 1:
        found.append(_candidate("cudnn", sets, window, [partial(cudnn, b.q, b.k, b.v, False) for b in sets]))
    return _for_device(found, sets, window, bench)


def flash(q: Any, k: Any, v: Any, window: float, scale: float | None = None) -> Any:
    """FlashAttention-2, causal to the last token; `window` counts the keys a query sees, itself included."""
    left = None if math.isinf(window) else int(window) - 1
    right = None if math.isinf(window) else 0
    return torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False,
        scale=scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip


def forward_for_backward(q: Any, k: Any, v: Any, window: float) -> tuple[Any, ...]:
    """Output, log of the softmax's sums, and the two states that the backward asks for."""
    left, right = (None, None) if math.isinf(window) else (int(window) - 1, 0)
    made = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False, window_size_left=left, window_size_right=right
    )
    return tuple(made[:4])


def flash_backward(gradient: Any, q: Any, k: Any, v: Any, kept: tuple[Any, ...], window: float) -> Any:
    """Gradients of queries, keys and values."""
    left, right = (None, None) if math.isinf(window) else (int(window) - 1, 0)
    out, sums, *states = kept
    return torch.ops.aten._flash_attention_backward(
        gradient, q, k, v, out, sums, None, None, q.shape[1], k.shape[1], 0.0, True, *states,
        window_size_left=left, window_size_right=right,
    )  # fmt: skip


def query_gradient(q: Any, k: Any, v: Any, gradient: Any, window: float) -> Any:
    """Gradient of the queries of the first sequence's first head in fp32, [q_tok, head_dim].

    With P the probabilities and dP = dO V^T: dQ = P (dP - rows' sums of P dP) K / sqrt(head_dim).
    """
    query, key, value, upstream = (t[0, :, 0].float() for t in (q, k, v, gradient))
    q_tok, kv_tok, scale = len(query), len(key), 1.0 / math.sqrt(q.shape[3])
    distance = torch.arange(kv_tok - q_tok, kv_tok, device=q.device)[:, None] - torch.arange(kv_tok, device=q.device)
    hidden = (distance < 0) | (distance >= window)
    share = torch.softmax((query @ key.T * scale).masked_fill(hidden, float("-inf")), 1)
    raised = upstream @ value.T
    return share * (raised - (share * raised).sum(1, keepdim=True)) @ key * scale


def cudnn(q: Any, k: Any, v: Any, causal: bool, scale: float | None = None) -> Any:
    """Fused attention by cuDNN; its causal mask starts at the first token, so q and k must be equally long."""
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None, False, 0.0, causal, False, scale=scale
    )[0]
    return out.transpose(1, 2)


def reference(q: Any, k: Any, v: Any, window: float, queries: Sequence[tuple[int, int, int]]) -> Any:
    """fp32 attention of single (sequence, token, head) queries, [len(queries), v_dim]."""
    q_tok, kv_tok = q.shape[1], k.shape[1]
    per_group = q.shape[2] // k.shape[2]
    rows = []
    for b, i, h in queries:
        last = kv_tok - q_tok + i
        first = 0 if math.isinf(window) else max(0, last + 1 - int(window))
        keys = k[b, first : last + 1, h // per_group].float()
        values = v[b, first : last + 1, h // per_group].float()
        scores = keys @ q[b, i, h].float() / math.sqrt(q.shape[3])
        rows.append(torch.softmax(scores, 0) @ values)
    return torch.stack(rows)


def some_queries(batch: int, q_tok: int, heads: int) -> list[tuple[int, int, int]]:
    """Queries to check: over all sequences, positions and heads, ends included."""
    b, i, h = (spread_indices(size, _CHECKED_QUERIES) for size in (batch, q_tok, heads))
    longest = max(len(b), len(i), len(h))
    return [(b[-1 - j % len(b)], i[j % len(i)], h[j % len(h)]) for j in range(longest)]


def _sets(op: AttentionPrefill, bench: Bench, kv_tok: int) -> list[_Buffers]:
    if op.dtype != "bf16":
        raise UnsupportedError(f"attention: dtype {op.dtype!r}; measured is bf16")
    b, q, hq, hkv, d = int(op.batch), int(op.q_tok), int(op.heads), int(op.kv_heads), int(op.head_dim)
    take = bench.inputs.take
    return [
        _Buffers(take(b, q, hq, d), take(b, kv_tok, hkv, d), take(b, kv_tok, hkv, d))
        for _ in range(bench.sets(float(op.hbm_bytes())))
    ]


def _candidate(backend: str, sets: Sequence[_Buffers], window: float, calls: Sequence[Any]) -> Candidate:
    first = sets[0]

    def check(out: Any) -> tuple[Any, Any]:
        queries = some_queries(first.q.shape[0], first.q.shape[1], first.q.shape[2])
        part = torch.stack([out[b, i, h] for b, i, h in queries])
        return part, reference(first.q, first.k, first.v, window, queries)

    return Candidate(backend, calls, check)


def _for_device(found: list[Candidate], sets: Sequence[_Buffers], window: float, bench: Bench) -> Sequence[Candidate]:
    """On the host neither kernel exists: PyTorch's own attention stands in, so that suites can be tried."""
    if bench.device == "cuda":
        return found
    return [_candidate("host", sets, window, [partial(_host, b, window) for b in sets])]


def _host(b: _Buffers, window: float) -> Any:
    q_tok, kv_tok = b.q.shape[1], b.k.shape[1]
    distance = torch.arange(kv_tok - q_tok, kv_tok)[:, None] - torch.arange(kv_tok)[None, :]
    mask = (distance >= 0) & (distance < window)
    q, k, v = (t.transpose(1, 2) for t in (b.q, b.k, b.v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2)
