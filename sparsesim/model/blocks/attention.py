"""Attention with grouped key-value heads: full, windowed, chunked or over chosen keys."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.indexer import Indexer
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.weights import Weights, split, split_or_copy
from sparsesim.work import Array, AttentionDecode, AttentionFlash, AttentionPrefill, Task


class Attention(Block):
    """softmax(q k^T) v with `kv_heads` shared by groups of query heads.

    A `window` keeps the last tokens only. With `chunked` it is Llama-4's chunk: tokens attend within their chunk; past
    the first chunk a decode step is sized by the whole chunk, the most it can attend to.
    """

    heads: int = Field(ge=1, description="query heads")
    kv_heads: int = Field(ge=1, description="key-value heads")
    head_dim: int = Field(ge=1, description="width of a head")
    window: int | None = Field(None, ge=1, description="tokens attended at most; none: all")
    chunked: bool = Field(False, description="the window is a chunk (Llama-4)")
    rope: bool = Field(True, description="rotary embedding of queries and keys")
    qk_norm: Literal["none", "head", "width", "unit"] = Field(
        "none", description="norm of queries and keys: per head, over all heads' width, or per head without weights"
    )
    qkv_bias: bool = Field(False, description="biases of query, key and value")
    out_bias: bool = Field(False, description="bias of the output")
    sinks: bool = Field(False, description="one learned logit per query head (gpt-oss)")
    sub_norm: bool = Field(False, description="a norm before the output projection (BitNet)")
    output_gate: bool = Field(False, description="a sigmoid gate as wide as the queries (Qwen3-Next)")
    indexer: Indexer | None = Field(None, description="block-sparse: an indexer chooses the keys attended")
    k_is_v: bool = Field(False, description="keys serve as values: no value projection (Gemma-4 full layers)")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} key-value heads do not divide {self.heads} heads")
        if self.chunked and self.window is None:
            raise ValueError("chunked: needs a window, the chunk")
        if self.indexer and self.window is not None:
            raise ValueError("indexer: excludes a window")
        return self

    @property
    def reach(self) -> float:
        """Tokens a query attends to at most."""
        if self.indexer:
            return float(self.indexer.top_k)
        return math.inf if self.window is None else float(self.window)

    @property
    def kv_window(self) -> float:
        """Tokens the cache must hold at most: an indexer's choice needs all."""
        return math.inf if self.indexer else self.reach

    def widths(self, tp: int = 1) -> tuple[int, int]:
        """Elements of the queries and of the keys on one rank."""
        heads = split(self.heads, tp, "attention heads")
        return heads * self.head_dim, split_or_copy(self.kv_heads, tp, "key-value heads") * self.head_dim

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Projections; biases, norms and sinks are kept."""
        q, kv = self.widths(tp)
        values = 1 if self.k_is_v else 2
        kept = (q + values * kv) * self.qkv_bias + d_model * self.out_bias
        kept += {"head": 2 * self.head_dim, "width": q + kv}.get(self.qk_norm, 0)
        kept += q // self.head_dim * self.sinks + q * self.sub_norm
        own = Weights(linear=d_model * (q * (2 + self.output_gate) + values * kv), kept=kept)
        return own + self.indexer.weights(d_model, d_model) if self.indexer else own

    def kv_elements_per_token(self, tp: int = 1) -> int:
        """Keys and values."""
        return 2 * self.widths(tp)[1]

    def kv_bytes_per_token(self, precision: Precision, tp: int = 1) -> float:
        """Keys and values, and the indexer's keys."""
        own = super().kv_bytes_per_token(precision, tp)
        return own + self.indexer.cache_bytes_per_token() if self.indexer else own

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Projections, rotary embedding, norms, cache write, output and its sum over ranks."""
        q, kv = self.widths(setting.tp)
        values = 1 if self.k_is_v else 2
        tasks = self._projections(tokens, d_model, setting, (q * (1 + self.output_gate), *[kv] * values))
        if self.qk_norm != "none":
            tasks += emit.norm("attention.q_norm", tokens, q, setting)
            tasks += emit.norm("attention.k_norm", tokens, kv, setting)
        if self.rope:
            tasks += emit.rope("attention.rope", tokens, (q, kv), setting)
        if setting.fused:
            kept = emit.pointwise("attention.cache", "activation", tokens, 2 * kv, setting, setting.precision.kv)
            tasks.append(kept)
        if self.indexer:
            tasks += self.indexer.token_tasks(tokens, d_model, d_model, setting)
        if self.output_gate:
            tasks += emit.gated_activation("attention.gate", tokens, q, setting, "sigmoid")
        if self.sub_norm:
            tasks += emit.norm("attention.sub_norm", tokens, q, setting)
        tasks += emit.linear("attention.out", tokens, q, d_model, setting)
        return tasks + emit.all_reduce("attention.allreduce", tokens, d_model, setting)

    def _projections(self, tokens: Array, d_model: int, setting: Setting, widths: tuple[int, ...]) -> list[Task]:
        if setting.fused:
            return emit.linear("attention.qkv", tokens, d_model, sum(widths), setting)
        tasks: list[Task] = []
        for name, width in zip("qkv", widths, strict=False):
            tasks += emit.linear(f"attention.{name}", tokens, d_model, width, setting)
        return tasks

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """The attention over the cache within reach, and the indexer over all of it."""
        q, kv = self.widths(setting.tp)
        core = AttentionDecode(
            batch=sequences,
            kv_tok=np.minimum(kv_tok, self.reach),
            heads=q // self.head_dim,
            kv_heads=kv // self.head_dim,
            head_dim=self.head_dim,
            dtype=setting.precision.kv,
        )
        by_window = {self.reach: [Task("attention.core", core)]}
        if self.indexer:
            by_window[math.inf] = self.indexer.decode_tasks(sequences, kv_tok, setting)
        return by_window

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Attention of the chunk's queries over the prompt so far."""
        q, kv = self.widths(setting.tp)
        core = (AttentionPrefill if setting.fused else AttentionFlash)(
            batch=sequences,
            q_tok=q_tok,
            kv_tok=kv_tok,
            heads=q // self.head_dim,
            kv_heads=kv // self.head_dim,
            head_dim=self.head_dim,
            window=self.reach,
            dtype=setting.precision.kv,
        )
        scores = self.indexer.chunk_tasks(sequences, q_tok, kv_tok, setting) if self.indexer else []
        return [*scores, Task("attention.core", core)]
