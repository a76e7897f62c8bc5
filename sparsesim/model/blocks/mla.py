"""Multi-head latent attention: keys and values as one low-rank vector a token (DeepSeek-V2, arXiv 2405.04434).

Decode absorbs the up-projections into queries and outputs and attends over the latent vectors; prefill expands keys and
values of every token within reach.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.indexer import Indexer
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.weights import Weights, split
from sparsesim.work import Array, MlaDecode, MlaPrefill, Task


class Mla(Block):
    """Latent attention."""

    heads: int = Field(ge=1, description="query heads")
    kv_rank: int = Field(ge=1, description="width of the compressed keys and values")
    rope_dim: int = Field(ge=0, description="width of the rotary key, shared by the heads")
    nope_dim: int = Field(ge=1, description="width of a head's key without rotary")
    v_dim: int = Field(ge=1, description="width of a head's value")
    q_rank: int | None = Field(None, ge=1, description="width of the compressed queries; none: not compressed")
    rope: bool = Field(True, description="the rotary part is rotated (not in Kimi-Linear)")
    indexer: Indexer | None = Field(None, description="block-sparse: an indexer chooses the keys attended")

    @property
    def part(self) -> str:
        """Reports group it with attention."""
        return "attention"

    @property
    def key_dim(self) -> int:
        """Width of a head's key."""
        return self.nope_dim + self.rope_dim

    @property
    def latent(self) -> int:
        """Cached elements of a token."""
        return self.kv_rank + self.rope_dim

    @property
    def reach(self) -> float:
        """Tokens a query attends to at most."""
        return float(self.indexer.top_k) if self.indexer else math.inf

    def weights(self, d_model: int, tp: int = 1) -> Weights:
        """Compressions are copied to every rank, the heads' projections split."""
        heads = split(self.heads, tp, "attention heads")
        q_in, down = (self.q_rank, d_model * self.q_rank) if self.q_rank else (d_model, 0)
        up = heads * (q_in * self.key_dim + self.kv_rank * (self.nope_dim + self.v_dim) + self.v_dim * d_model)
        own = Weights(linear=down + d_model * self.latent + up, kept=(self.q_rank or 0) + self.kv_rank)
        return own + self.indexer.weights(d_model, q_in) if self.indexer else own

    def kv_elements_per_token(self, tp: int = 1) -> int:
        """The latent vector and the rotary key, on every rank."""
        del tp
        return self.latent

    def kv_bytes_per_token(self, precision: Precision, tp: int = 1) -> float:
        """The latent vector, and the indexer's keys."""
        own = super().kv_bytes_per_token(precision, tp)
        return own + self.indexer.cache_bytes_per_token() if self.indexer else own

    def own_token_tasks(self, tokens: Array, d_model: int, setting: Setting) -> list[Task]:
        """Compressions and their norms, queries, rotary embedding, cache write, output and its sum over ranks."""
        heads = split(self.heads, setting.tp, "attention heads")
        q_in = self.q_rank or d_model
        if self.q_rank:
            tasks = emit.linear("attention.qkv_down", tokens, d_model, self.q_rank + self.latent, setting)
            tasks += emit.norm("attention.q_norm", tokens, self.q_rank, setting)
            tasks += emit.linear("attention.q_up", tokens, self.q_rank, heads * self.key_dim, setting)
        else:
            tasks = emit.linear("attention.q", tokens, d_model, heads * self.key_dim, setting)
            tasks += emit.linear("attention.kv_down", tokens, d_model, self.latent, setting)
        tasks += emit.norm("attention.kv_norm", tokens, self.kv_rank, setting)
        if self.rope and self.rope_dim:
            tasks += emit.rope("attention.rope", tokens, (heads * self.rope_dim, self.rope_dim), setting)
        tasks.append(
            emit.pointwise("attention.cache", "activation", tokens, self.latent, setting, setting.precision.kv)
        )
        if self.indexer:
            tasks += self.indexer.token_tasks(tokens, d_model, q_in, setting)
        tasks += emit.linear("attention.out", tokens, heads * self.v_dim, d_model, setting)
        return tasks + emit.all_reduce("attention.allreduce", tokens, d_model, setting)

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """Absorbed products (no context in them), attention over latent vectors, indexer."""
        heads = split(self.heads, setting.tp, "attention heads")
        core = MlaDecode(
            batch=sequences,
            kv_tok=np.minimum(kv_tok, self.reach),
            heads=heads,
            kv_rank=self.kv_rank,
            rope_dim=self.rope_dim,
            dtype=setting.precision.kv,
        )
        by_window: dict[float, list[Task]] = {
            0.0: [
                *emit.linear("attention.absorb_k", sequences, self.nope_dim, heads * self.kv_rank, setting, kept=True),
                *emit.linear("attention.absorb_v", sequences, self.kv_rank, heads * self.v_dim, setting, kept=True),
            ],
            self.reach: [Task("attention.core", core)],
        }
        if self.indexer:
            by_window[math.inf] = self.indexer.decode_tasks(sequences, kv_tok, setting)
        return by_window

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Expansion of keys and values of all tokens so far, and attention in the expanded form.

        With an indexer the chunk attends to the chosen latent vectors in the absorbed form, as decode does.
        """
        heads = split(self.heads, setting.tp, "attention heads")
        if self.indexer:
            by_window = self.decode_by_window(sequences * q_tok, kv_tok, setting)
            chosen = [*by_window[0.0], *by_window[self.reach]]
            return [*self.indexer.chunk_tasks(sequences, q_tok, kv_tok, setting), *chosen]
        core = MlaPrefill(
            batch=sequences,
            q_tok=q_tok,
            kv_tok=kv_tok,
            heads=heads,
            kv_rank=self.kv_rank,
            rope_dim=self.rope_dim,
            nope_dim=self.nope_dim,
            v_dim=self.v_dim,
            dtype=setting.precision.kv,
        )
        expanded = heads * (self.nope_dim + self.v_dim)
        expand = emit.linear("attention.kv_up", sequences * kv_tok, self.kv_rank, expanded, setting)
        return [*expand, Task("attention.core", core)]
