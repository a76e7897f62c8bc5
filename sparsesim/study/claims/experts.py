"""Mixtures of experts: the handbook's arithmetic, load, communication, energy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsesim import laws
from sparsesim.model.balance import balance
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.ffn import Ffn
from sparsesim.model.blocks.moe import Moe
from sparsesim.model.zoo import load_model
from sparsesim.published.observation import published_table
from sparsesim.study.claims.base import Claim, Row, figure

HANDBOOK = "Language AI Handbook, chapter on sparse models"
A100_FLOP_PER_S, UTILISATION = 312e12, 0.40
"""The handbook's GPU and its share of the peak."""
D_MODEL = 4096
EXPERTS, TOP_K = 8, 2
AT_EASE = 16
"""Sequences up to which both measured servers ran as many as were asked of them."""


def arithmetic() -> Iterator[Row]:
    """Parameters and FLOP, counted on sparsesim's own blocks."""
    mistral, mixtral = load_model("mistral-7b"), load_model("mixtral-8x7b")
    yield Row("dense 7B: parameters", 7.0, mistral.parameters() / 1e9, "G", 0.05)
    yield Row("sparse 47B: parameters", 47.0, mixtral.parameters() / 1e9, "G", 0.02)
    yield Row("sparse 47B: active", 12.0, mixtral.active_parameters() / 1e9, "G", 0.08)
    yield Row("dense 7B: FLOP a token", 14.0, 2 * mistral.parameters() / 1e9, "GFLOP", 0.05)
    yield Row("sparse 47B: FLOP a token", 24.0, 2 * mixtral.active_parameters() / 1e9, "GFLOP", 0.08)
    whole = Ffn(d_ff=4 * D_MODEL, gated=False, activation="relu")
    split = Moe(experts=EXPERTS, top_k=TOP_K, d_ff=4 * D_MODEL // EXPERTS, gated=False)
    equal = Moe(experts=EXPERTS, top_k=TOP_K, d_ff=4 * D_MODEL, gated=False)
    dense = whole.weights(D_MODEL).total
    yield Row("8 experts of an eighth: parameters over dense", 1.0, split.weights(D_MODEL).experts / dense, "", 0.001)
    compute = 100 * split.weights(D_MODEL).active_experts / dense
    yield Row("8 experts of an eighth, top-2: compute over dense", 25.0, compute, "%", 0.1)
    capacity = equal.weights(D_MODEL).experts / equal.weights(D_MODEL).active_experts
    yield Row("8 experts of full size, top-2: capacity per FLOP", 4.0, capacity, "", 0.001)
    attention = Attention(heads=32, kv_heads=32, head_dim=128).weights(D_MODEL).total
    yield Row("FFN's share of a layer at d_ff = 4 d", 200 / 3, 100 * dense / (dense + attention), "%", 0.1)
    gpt3 = next(block for block, _ in load_model("gpt-3-175b").blocks if isinstance(block, Ffn))
    yield Row("GPT-3's FFN a layer", 1.2, gpt3.weights(12288).total / 1e9, "G", 0.02)


def dense_scaling() -> Iterator[Row]:
    """A100s for 1000 tokens/s at 2 FLOP per parameter and token and 40 % of the peak."""
    small, large = (2 * size * 1000 / (A100_FLOP_PER_S * UTILISATION) for size in (7e9, 540e9))
    rounded = f"{small:.2f}, rounded up to a whole GPU"
    yield Row("7B: A100s for 1000 tokens/s", 1.0, float(np.ceil(small)), "", 0.001, rounded)
    silent = "FLOP alone: silent on the 1.08 TB of weights, which take 14 A100s to hold and are read for every step"
    yield Row("540B: A100s for 1000 tokens/s", 9.0, large, "", 0.05, silent)
    yield Row("175B: GFLOP a token", 350.0, 2 * load_model("gpt-3-175b").parameters() / 1e9, "", 0.02)


def load() -> Iterator[Row]:
    """Balance of 1000 tokens over 8 experts, even and skewed, and what a skew costs a step."""
    rng = np.random.default_rng(0)
    for name, popularity in (("uniform", laws.uniform_popularity(8)), ("zipf 1.0", laws.zipf_popularity(8, 1.0))):
        counts = np.mean([np.sort(laws.sample_counts(popularity, 1, 1000, rng)) for _ in range(200)], axis=0)
        found = balance(counts, block=1)
        yield Row(f"{name}: load-balance coefficient", None, found.load_balance_coefficient)
        longest = float(counts.max() / counts.mean())
        yield Row(
            f"{name}: longest queue over the mean", None, longest, "", None, "padding to it wastes one less its inverse"
        )
    even = figure("moe-load", "step_s", expert_load="uniform")
    for skew in ("zipf:0.4", "zipf:0.8", "zipf:1.2"):
        why = "decode is bound by reading weights: a skew reads fewer experts elsewhere" if skew == "zipf:1.2" else ""
        own = figure("moe-load", "step_s", expert_load=skew) / even
        yield Row(f"{skew}: step over an even load's, 8 GPUs", None, own, "", None, why)


def communication() -> Iterator[Row]:
    """Bytes of dispatch and combine a layer, 65536 tokens of 4096 bf16 values, by GPUs and experts."""
    tokens, width = 65_536, 4096 * 2.0
    for gpus, experts in ((1, 8), (2, 8), (8, 8), (8, 64), (64, 64)):
        local = 1.0 / gpus
        sent = 2 * tokens * TOP_K * width * (1 - local)
        why = (
            "a token goes to the ranks of its two experts; those on its own stay" if gpus == 8 and experts == 8 else ""
        )
        yield Row(f"{gpus} GPUs, {experts} experts: all to all a layer, both ways", None, sent / 1e9, "GB", None, why)


def energy() -> Iterator[Row]:
    """Energy of a sparse model over that of a dense one of its size, against the ratio of active parameters."""
    sparse, dense = load_model("qwen3-30b-a3b"), load_model("qwen3-32b")
    active = 100 * sparse.active_parameters() / dense.active_parameters()
    yield Row("qwen3-30b-a3b over qwen3-32b: active parameters", None, active, "%")
    for batch, share in measured_pairs():
        pair = [figure("moe-energy", "j_per_tok", model=name, batch=batch) for name in (sparse.name, dense.name)]
        at_ease = batch <= AT_EASE
        found = 100 * pair[0] / pair[1]
        why = "the server's expert kernels draw less than ours"
        if not at_ease:
            why += "; the dense server was at its memory's limit (29 of 32 running)"
        within = 14.0 if at_ease else None
        yield Row(f"energy a token at batch {batch}, one H100 each", share, found, "%", within, why)
    for batch in (1, 8, 64):
        pair = [figure("moe-against-dense", "j_per_tok", model=m, batch=batch) for m in ("mixtral-8x7b", "mistral-7b")]
        why = "1.8 by active parameters: at a batch of 8 nearly every expert is read" if batch == 8 else ""
        yield Row(f"47B over 7B, batch {batch}: energy a token", None, pair[0] / pair[1], "", None, why)


def measured_pairs() -> Iterator[tuple[int, float]]:
    """Batch and J/token of the sparse model in percent of the dense one's, where both were measured on one GPU."""
    table = published_table("energy_measured")
    own = table[(table.n_gpus == 1) & table.model.isin(["Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-32B"])]
    for batch, part in own.groupby("max_batch"):
        by_model = part.groupby("model").joules_per_output_token.mean()
        if len(by_model) == 2:
            yield int(batch), 100 * float(by_model.iloc[0] / by_model.iloc[1])


CLAIMS = (
    Claim(
        "4. Dense against sparse: parameters and FLOP",
        HANDBOOK,
        "8 experts, top-2: 25 % of the compute at equal parameters, 4x the capacity per FLOP at equal experts; a "
        "sparse 47B model costs what a dense 12B one does",
        ("moe-against-dense",),
        lambda: [*arithmetic(), *dense_scaling()],
    ),
    Claim(
        "4b. Expert load and communication",
        HANDBOOK,
        "uneven load pads queues to the longest; expert parallelism sends from nothing to gigabytes a layer",
        ("moe-load",),
        lambda: [*load(), *communication()],
    ),
    Claim(
        "4c. Energy of sparse models",
        "ML.ENERGY v3 (`calibration/published/energy_measured.csv`)",
        "a mixture of experts saves less energy than its share of active parameters",
        ("moe-energy", "moe-against-dense"),
        lambda: list(energy()),
    ),
)
