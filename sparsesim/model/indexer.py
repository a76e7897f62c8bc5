"""The lightning indexer of block-sparse attention: cheap scores of every key choose the top_k that are attended.

DeepSeek-V3.2 (technical report, section 2.1): per query, `heads` scores relu(q_j . k) weighted and summed over heads,
keys of `head_dim` shared by the heads and cached in fp8 with one fp32 scale per key.
"""

from __future__ import annotations

from pydantic import Field

from sparsesim.families import Frozen
from sparsesim.model import emit
from sparsesim.model.setting import Setting
from sparsesim.model.weights import Weights
from sparsesim.work import Array, AttentionPrefill, MlaDecode, Task

_SCALE_BYTES = 4.0


class Indexer(Frozen):
    """Chooses the keys a query attends to."""

    heads: int = Field(ge=1, description="scoring heads")
    head_dim: int = Field(ge=1, description="width of a scoring head")
    top_k: int = Field(ge=1, description="keys kept for a query")
    reused: bool = Field(False, description="the choice of an earlier layer is reused: no scoring, no weights (GLM-5)")

    def weights(self, d_model: int, q_width: int) -> Weights:
        """Query (from `q_width`), shared key with its LayerNorm, and per-head weight; copied to every rank."""
        if self.reused:
            return Weights()
        linear = q_width * self.heads * self.head_dim + d_model * self.head_dim
        return Weights(linear=linear, kept=2 * self.head_dim + d_model * self.heads)

    def cache_bytes_per_token(self) -> float:
        """One fp8 key and its scale."""
        return 0.0 if self.reused else self.head_dim + _SCALE_BYTES

    def token_tasks(self, tokens: Array, d_model: int, q_width: int, setting: Setting) -> list[Task]:
        """Projections, rotary embedding and key norm."""
        if self.reused:
            return []
        width = self.heads * self.head_dim
        return [
            *emit.linear("indexer.query", tokens, q_width, width, setting),
            *emit.linear("indexer.key", tokens, d_model, self.head_dim, setting),
            *emit.linear("indexer.weights", tokens, d_model, self.heads, setting, kept=True),
            *emit.norm("indexer.norm", tokens, self.head_dim, setting),
            *emit.rope("indexer.rope", tokens, (width, self.head_dim), setting),
        ]

    def decode_tasks(self, sequences: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Scores of all keys for one new token a sequence, and the choice among them."""
        if self.reused:
            return []
        scores = MlaDecode(
            batch=sequences, kv_tok=kv_tok, heads=self.heads, kv_rank=0.0, rope_dim=self.head_dim, dtype="fp8"
        )
        return [
            Task("indexer.scores", scores),
            emit.pointwise("indexer.topk", "topk", sequences, kv_tok, setting, "fp32"),
        ]

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """The same for a prompt chunk."""
        if self.reused:
            return []
        scores = AttentionPrefill(
            batch=sequences,
            q_tok=q_tok,
            kv_tok=kv_tok,
            heads=self.heads,
            kv_heads=1,
            head_dim=self.head_dim / 2,
            dtype="fp8",
        )
        return [
            Task("indexer.scores", scores),
            emit.pointwise("indexer.topk", "topk", sequences * q_tok, kv_tok, setting, "fp32"),
        ]


# Scores are one product of 2 head_dim per pair and read keys alone, once for all heads. A decode step's are those of
# latent attention without values; a chunk's those of attention of half the head width, which counts 4 (head_dim / 2)
# FLOP per pair and 2 (head_dim / 2) elements per key.
