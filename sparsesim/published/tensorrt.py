"""TensorRT-LLM's published output rates on H200s: offline at maximum load, and at a fixed batch.

At maximum load as many sequences run as the KV cache holds with their whole outputs reserved (the executor's policy
GUARANTEED_NO_EVICT), at most MAX_RUNNING. `DEP8` is attention data-parallel and experts over the same 8 GPUs, and so is
`TP8` where a row's notes say that attention was data-parallel. fp8 runs keep the KV cache in fp8 too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sparsesim.cost.step import ReplicaSteps
from sparsesim.published.observation import Observation, Unexpressed, published_table, system
from sparsesim.system import PoolSystem

ENGINE = "tensorrt-llm"
MODELS = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.3-70B": "llama-3.1-70b",
    "Llama-3.1-405B": "llama-3.1-405b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Llama-4-Scout-17B-16E": "llama-4-scout",
    "Llama-4-Maverick-17B-128E": "llama-4-maverick",
    "DeepSeek-R1-0528": "deepseek-v3",
    "gpt-oss-120b": "gpt-oss-120b",
    "gpt-oss-20b": "gpt-oss-20b",
    "LLaMA-7B": "llama-7b",
    "LLaMA-70B": "llama-2-70b",
    "Mistral-7B": "mistral-7b",
}
FP8 = "weights=fp8 activations=fp8 kv=fp8"
MAX_RUNNING = 2048
"""Largest batch of trtllm-bench's tuning heuristic (assumed)."""
BUDGET_TOK = 8192
"""max_num_tokens of the PyTorch backend (assumed)."""


def observations() -> Iterator[Observation | Unexpressed]:
    """Every row of output rate."""
    table = published_table("e2e_measured")
    for number, row in table.iterrows():
        if row.metric != "ttft":
            yield _observation(int(number), row)


def first_tokens() -> Iterator[tuple[str, float, ReplicaSteps, int]]:
    """Name, measured seconds, step costs and prompt of the rows that time the first token of one prompt."""
    table = published_table("e2e_measured")
    for number, row in table[table.metric == "ttft"].iterrows():
        replica = system(MODELS[row.model], "h200-sxm", ENGINE, _layout(row), FP8)
        name = f"e2e_measured.csv row {number}: {row.model} {row.parallelism}, {row.isl}"
        yield name, float(row.value) * 1e-3, replica.steps, int(row.isl)


def _observation(number: int, row: Any) -> Observation:
    layout = _layout(row)
    precision = "" if "mxfp4" in row.precision else FP8
    replica = system(MODELS[row.model], "h200-sxm", ENGINE, layout, precision)
    gpus = int(row.n_gpus)
    fixed = str(row.concurrency_or_batch).isdigit()
    running = int(row.concurrency_or_batch) if fixed else held(replica, int(row.isl), int(row.osl))
    rate = float(row.value) * (gpus if row.metric == "output_throughput_per_gpu" else 1)
    version = "v0.9 fixed batch" if fixed else "maximum load"
    return Observation(
        group=f"tensorrt-llm {version}",
        name=f"e2e_measured.csv row {number}: {row.model} {row.parallelism}, {row.isl}/{row.osl}",
        model=MODELS[row.model],
        steps=replica.steps,
        running=running,
        prompt_tok=int(row.isl),
        output_tok=float(row.osl),
        budget_tok=BUDGET_TOK,
        output_tok_per_s=rate,
    )


def _layout(row: Any) -> dict[str, int]:
    match = re.fullmatch(r"(TP|DEP)(\d+)", str(row.parallelism))
    if match is None:
        raise ValueError(f"unknown parallelism {row.parallelism!r}")
    ways = int(match[2])
    data_parallel = match[1] == "DEP" or "enable_attention_dp" in str(row.notes)
    return {"dp": ways, "ep": ways} if data_parallel else {"tp": ways}


def held(replica: PoolSystem, prompt_tok: int, output_tok: int) -> int:
    """Sequences whose cache fits when each reserves its whole length; windows cap what it keeps."""
    plan, whole = replica.memory, prompt_tok + output_tok
    blocks = sum(-(-min(whole, window) // plan.block_tok) for window in plan.kv_windows)
    return int(max(min(plan.kv_blocks // blocks, MAX_RUNNING * plan.groups), 1))
