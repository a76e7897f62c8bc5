"""State-space models and hybrids against transformers over context, and sparse attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsesim.model.zoo import load_model
from sparsesim.study.claims.base import Claim, Floats, Row, crossing, curve

SOURCE = "The Sparsity Frontier: Cutting the LLM Energy Tax"
CONTEXT = "workload.context"
LONG_TOK = 262_144
PAIRS = (
    ("ssm-crossover", "llama-3.2-3b", "mamba2-2.7b", "prefill, H100"),
    ("ssm-crossover-decode", "llama-3.2-3b", "mamba2-2.7b", "decode, 8 sequences, H100"),
    ("ssm-crossover-board", "qwen2.5-0.5b", "mamba2-780m", "prefill, RTX 4090"),
    ("ssm-crossover-board", "qwen2.5-0.5b", "falcon-h1-0.5b", "prefill, RTX 4090"),
    ("hybrids-8b", "llama-3.1-8b", "mamba2-7b", "prefill, H100"),
    ("hybrids-8b", "llama-3.1-8b", "nemotron-h-8b", "prefill, H100"),
    ("samba", "phi-3.5-mini", "samba-3.8b", "prefill, H100"),
    ("jamba", "mixtral-8x7b", "jamba-v0.1", "decode, 4 sequences, 4 H100s"),
)
"""Scenario, transformer, challenger, and where."""
BELOW_FOUR = {
    "mamba2-780m": "65,536 tokens are the longest here, and the state-space model is 1.6 times larger",
    "falcon-h1-0.5b": "every layer attends beside its state space: the quadratic part stays",
    "nemotron-h-8b": "4 of 52 layers attend; their quadratic part is a third of the energy at this length",
    "samba-3.8b": "131,072 tokens are the longest here; the ratio doubles with the length from there on",
    "jamba-v0.1": "decoding four sequences, the experts' weights are read whatever the context",
}
"""Why a pair stays below a factor of 4."""


def _curve(scenario: str, quantity: str, model: str) -> Floats:
    return curve(scenario, quantity, CONTEXT, model=model)[1]


def crossovers() -> Iterator[Row]:
    """Context from which the challenger is cheaper, in time and in energy, and its gain at the longest one."""
    for scenario, transformer, other, where in PAIRS:
        x, _ = curve(scenario, "step_s", CONTEXT, model=transformer)
        times, joules = (
            [_curve(scenario, quantity, model) for model in (transformer, other)]
            for quantity in ("step_s", "j_per_tok")
        )
        pair = f"{other} against {transformer} ({where})"
        yield Row(f"{pair}: faster from", None, crossing(x, times[0], times[1]), "tokens")
        yield Row(f"{pair}: less energy from", None, crossing(x, joules[0], joules[1]), "tokens")
        ratio = float(joules[0][-1] / joules[1][-1])
        why = BELOW_FOUR.get(other, "") if ratio < 4 else ""
        yield Row(f"{pair}: energy ratio at {x[-1]:,.0f} tokens", None, ratio, "", None, why)


def published() -> Iterator[Row]:
    """The sources' own figures."""
    x, full = curve("ssm-crossover", "j_per_tok", CONTEXT, model="llama-3.2-3b")
    _, linear = curve("ssm-crossover", "j_per_tok", CONTEXT, model="mamba2-2.7b")
    why = "the source names no length: its 'extremely long documents' are these"
    four = crossing(x, full / linear, np.full(len(x), 4.0))
    yield Row("prompt from which the 3B pair's energy ratio exceeds 4", None, four, "tokens", None, why)
    short = float(np.interp(8192, x, full / linear))
    yield Row("energy ratio at 8,192 tokens", 1.0, short, "", 0.25, "the source's crossover, 'e.g. beyond 8K tokens'")
    jamba, mixtral = (load_model(name) for name in ("jamba-v0.1", "mixtral-8x7b"))
    cache = [float(model.kv_bytes(LONG_TOK, model.precision)) for model in (mixtral, jamba)]
    yield Row("Jamba's KV cache at 256K", 4.0, cache[1] / 1e9, "GB", 0.10, "4 of 32 layers attend")
    yield Row("a like-sized transformer's over Jamba's", 8.0, cache[0] / cache[1], "", 0.01)


def between() -> Iterator[Row]:
    """Growth of energy per token from 2048 tokens to the longest prompt."""
    for scenario, models in (
        ("hybrids-8b", ("llama-3.1-8b", "nemotron-h-8b", "mamba2-7b")),
        ("samba", ("phi-3.5-mini", "samba-3.8b", "mamba-2.8b")),
        ("jamba", ("mixtral-8x7b", "jamba-v0.1")),
    ):
        for model in models:
            x, joules = curve(scenario, "j_per_tok", CONTEXT, model=model)
            growth = float(joules[-1] / joules[np.flatnonzero(x == 2048)[0]])
            yield Row(f"{model}: energy a token, {x[-1]:,.0f} over 2,048", None, growth)


def sparse_attention() -> Iterator[Row]:
    """KV bytes read, time and energy of a window and of chosen blocks against full attention."""
    for scenario, full, sparse, where in (
        ("window-attention", "mistral-7b", "mistral-7b-v0.1", "window 4096, 8 sequences, H100"),
        ("sparse-attention", "deepseek-v3", "deepseek-v3.2", "2048 keys chosen, 64 sequences, 8 H200s"),
    ):
        x, _ = curve(scenario, "step_s", CONTEXT, model=full)
        times, joules = (
            [_curve(scenario, quantity, model) for model in (full, sparse)] for quantity in ("step_s", "j_per_tok")
        )
        for at in (8192.0, float(x[-1])):
            i = int(np.argmin(np.abs(x - at)))
            own = f"{sparse} against {full} at {x[i]:,.0f} tokens ({where})"
            yield Row(f"{own}: energy ratio", None, float(joules[0][i] / joules[1][i]))
            yield Row(f"{own}: time ratio", None, float(times[0][i] / times[1][i]))
        yield Row(f"{sparse}: less energy from", None, crossing(x, joules[0], joules[1]), "tokens")
    models = [load_model(name) for name in ("mistral-7b", "mistral-7b-v0.1")]
    whole, window = (float(model.kv_bytes(65_536, model.precision)) for model in models)
    yield Row("KV bytes at 65,536 tokens, all over a window of 4096", 16.0, whole / window, "", 0.01, "65536 / 4096")


CLAIMS = (
    Claim(
        "3. State-space models and hybrids over context",
        SOURCE,
        "dense models are efficient to about 8K tokens; beyond, linear attention costs up to 4x less energy a token; "
        "Samba and Jamba stand between",
        tuple(dict.fromkeys(pair[0] for pair in PAIRS)),
        lambda: [*crossovers(), *published(), *between()],
    ),
    Claim(
        "6. Sparse attention",
        SOURCE,
        "sliding windows limit a token to a fixed local context, which cuts KV traffic and energy",
        ("window-attention", "sparse-attention"),
        lambda: list(sparse_attention()),
    ),
)
