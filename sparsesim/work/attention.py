"""Attention kernels: grouped-query and latent (MLA), prefill and decode, causal, whole or windowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsesim.work.base import Array, Op, column, dtype_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention(Op):
    batch: Array = column("sequences")
    q_tok: Array = column("new tokens per sequence", "tok", default=1.0)
    kv_tok: Array = column("tokens attended per sequence, the new ones included", "tok")
    heads: Array = column("query heads on this device")

    def pairs(self) -> Array:
        """Query-key pairs of one sequence and head, causal."""
        return causal_pairs(self.q_tok, self.kv_tok, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPrefill(_Attention):
    """softmax(q k^T) v over q_tok new tokens of each sequence, the kernel alone."""

    op: ClassVar[str] = "attention_prefill"
    products: ClassVar[float] = 2.0
    """Of 2 head_dim a pair: scores and values."""
    kv_heads: Array = column("key-value heads on this device")
    head_dim: Array = column("width of a head")
    window: Array = column("sliding window; inf: none", "tok", default=np.inf)
    dtype: str = column("of q, k, v and the output", default="bf16")

    def pairs(self) -> Array:
        """Query-key pairs inside the causal mask and the window."""
        return causal_pairs(self.q_tok, self.kv_tok, self.window)

    def flop(self) -> Array:
        """A multiplication and an addition for each of a pair's products and each of its head_dim."""
        return 2.0 * self.products * self.batch * self.heads * self.head_dim * self.pairs()

    def hbm_bytes(self) -> Array:
        """Q and output, and the keys and values within reach."""
        reach = np.minimum(self.kv_tok, self.window + self.q_tok)
        tokens = 2.0 * self.q_tok * self.heads + 2.0 * reach * self.kv_heads
        return dtype_bytes(self.dtype) * self.batch * self.head_dim * tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFlash(AttentionPrefill):
    """The same by FlashAttention-2, which an eager framework calls where a faster kernel may exist."""

    op: ClassVar[str] = "attention_flash"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBackward(AttentionPrefill):
    """Gradients of queries, keys and values, by FlashAttention-2."""

    op: ClassVar[str] = "attention_backward"
    products: ClassVar[float] = 5.0
    """Scores again, and the gradients of values, probabilities, queries, keys."""

    def hbm_bytes(self) -> Array:
        """Of queries and output twice as much as the forward (their gradients), of keys and values too."""
        return 2.0 * AttentionPrefill.hbm_bytes(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDecode(AttentionPrefill):
    """The same for one (or a few) new tokens a sequence: bound by reading the KV cache."""

    op: ClassVar[str] = "attention_decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaPrefill(_Attention):
    """Latent attention in its expanded form: keys of kv_rank/4 + rope_dim, values of kv_rank/4 per head.

    DeepSeek-V3: nope and value width 128 a head at kv_rank 512.
    """

    op: ClassVar[str] = "mla_prefill"
    kv_rank: Array = column("width of the compressed keys and values")
    rope_dim: Array = column("width of the rotary key, shared by the heads")
    nope_dim: Array = column("width of a head's key without rotary", default=128.0)
    v_dim: Array = column("width of a head's value", default=128.0)
    dtype: str = column("of q, k, v and the output", default="bf16")

    def flop(self) -> Array:
        """2 (nope + rope) + 2 v per pair and head."""
        per_pair = 2.0 * (self.nope_dim + self.rope_dim) + 2.0 * self.v_dim
        return self.batch * self.heads * per_pair * self.pairs()

    def hbm_bytes(self) -> Array:
        """Q and output by head, keys and values by head."""
        key = self.nope_dim + self.rope_dim
        per_head = self.q_tok * (key + self.v_dim) + self.kv_tok * (key + self.v_dim)
        return dtype_bytes(self.dtype) * self.batch * self.heads * per_head


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaDecode(_Attention):
    """Latent attention with the up-projections absorbed: every head attends over the same latent vectors."""

    op: ClassVar[str] = "mla_decode"
    kv_rank: Array = column("width of the compressed keys and values")
    rope_dim: Array = column("width of the rotary key, shared by the heads")
    dtype: str = column("of q, the cache and the output", default="bf16")

    def flop(self) -> Array:
        """2 (rank + rope) for the scores and 2 rank for the values, per pair and head."""
        per_pair = 2.0 * (2.0 * self.kv_rank + self.rope_dim)
        return self.batch * self.heads * per_pair * self.pairs()

    def hbm_bytes(self) -> Array:
        """The latent cache once, q and output by head."""
        cache = self.kv_tok * (self.kv_rank + self.rope_dim)
        heads = self.q_tok * self.heads * (2.0 * self.kv_rank + self.rope_dim)
        return dtype_bytes(self.dtype) * self.batch * (cache + heads)


def causal_pairs(q_tok: Array, kv_tok: Array, window: Array) -> Array:
    """Query-key pairs of one head: query i of q sees the last min(kv - q + i + 1, window) keys.

    With q new of kv tokens the sum is q*(kv - q) + q*(q+1)/2, less what lies outside the window.
    """
    q, kv, w = np.asarray(q_tok, float), np.asarray(kv_tok, float), np.asarray(window, float)
    first = kv - q + 1
    full = q * first + q * (q - 1) / 2
    growing = np.clip(w - first, 0, q)
    inside = growing * first + growing * (growing - 1) / 2 + (q - growing) * np.where(np.isinf(w), 0, w)
    result = np.where(kv <= w, full, inside)
    return float(result) if result.ndim == 0 else result
