"""ML.ENERGY Benchmark v3: vLLM on H100s at a fixed number of running requests, GPUs only, steady state.

Prompt lengths are not published. They are assumed per data set, once: `PROMPT_TOK`. Expert-parallel rows split the
attention over the same GPUs (tp = GPUs, ep = GPUs), as vLLM's --enable-expert-parallel does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sparsesim.published.observation import Observation, Unexpressed, published_table, system

ENGINE = "vllm"
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
}
PROMPT_TOK = {"lm-arena-chat": 200, "gpqa": 250}
"""Assumed: a chat turn and a multiple-choice question with its instructions, in tokens."""
BUDGET_TOK = 8192
"""vLLM's default token budget on an H100-class card (facts: serving)."""


def observations(prompt_scale: float = 1.0) -> Iterator[Observation | Unexpressed]:
    """Every row; `prompt_scale` multiplies the assumed prompt lengths, for their sensitivity."""
    table = published_table("energy_measured")
    own = table[table.source.str.startswith("ml-energy")]
    for number, row in own.iterrows():
        model = MODELS.get(row.model)
        if model is None:
            yield Unexpressed("ml.energy", 1, f"no model {row.model!r}")
            continue
        gpus = int(row.n_gpus)
        layout = {"tp": gpus, "ep": gpus if row.ep > 1 else 1}
        replica = system(model, "h100-sxm", ENGINE, layout)
        yield Observation(
            group=f"{model} on {gpus} H100",
            name=f"energy_measured.csv row {number}, batch {row.avg_batch:g}",
            model=model,
            steps=replica.steps,
            running=max(math.floor(row.avg_batch + 0.5), 1),
            prompt_tok=round(PROMPT_TOK[row.dataset] * prompt_scale),
            output_tok=float(row.avg_output_len),
            budget_tok=BUDGET_TOK,
            median_itl_s=float(row.median_itl_ms) * 1e-3,
            output_tok_per_s=float(row.output_tok_per_s_total),
            power_w=float(row.avg_power_w_total),
        )
