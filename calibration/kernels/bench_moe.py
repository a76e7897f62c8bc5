"""Measure the mixture-of-experts kernels: `python -m calibration.kernels.bench_moe OUT` writes OUT/moe.csv.

Layer rows go from router to combine; `composed` is the same layer of PyTorch operators, `capacity` pads every
expert to twice the mean load. Grouped rows are the two GEMMs alone, against `torch._grouped_mm`. Skewed
rows draw experts by Zipf(0.8): grouped loads from the law, layers through a bias in the router.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.kernels.rows import Case, Table, measure_ceilings, normal
from sparsesim import laws
from sparsesim.kernels.common.checks import assert_close
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.moe import composed, config, grouped, layer, reference

MODELS = {
    "qwen3-30b-a3b": (128, 768, 2048, 8),
    "mixtral-8x7b": (8, 14336, 4096, 2),
}  # experts, d_expert, d_model, top_k
ZIPF_EXPONENT = 0.8
LAYER_TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
GROUPED_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SKEWED_LAYER_TOKENS = (64, 1024)
ENERGY_TOKENS = (1, 64, 4096)
BF16 = torch.bfloat16


def popularity(load: str, experts: int) -> Any:
    """Share of the assignments that each expert draws."""
    return laws.uniform_popularity(experts) if load == "even" else laws.zipf_popularity(experts, ZIPF_EXPONENT)


def layer_weights(load: str, model: str) -> reference.MoEWeights:
    """Random weights; the first input, always 1, carries the load's logarithm into the router."""
    experts, d_expert, d_model, _ = MODELS[model]
    router = normal(experts, d_model, scale=d_model**-0.5)
    router[:, 0] = torch.tensor(np.log(popularity(load, experts) * experts), device="cuda")
    return reference.MoEWeights(
        router,
        normal(experts, 2 * d_expert, d_model, scale=d_model**-0.5),
        normal(experts, d_model, d_expert, scale=d_expert**-0.5),
    )


def layer_rows(table: Table, weights: reference.MoEWeights, load: str, tokens: int) -> None:
    """Ours, composed and capacity-padded layer at one number of tokens, inputs rotated."""
    top_k = MODELS["qwen3-30b-a3b"][3]
    inputs = [normal(tokens, weights.d_model) for _ in range(max(2, min(16, 64 // tokens)))]
    for x in inputs:
        x[:, 0] = 1.0
    work = [layer.moe_workspace(tokens, weights, top_k, BF16) for _ in inputs]
    expert, _ = reference.route_reference(inputs[0], weights.router, top_k)
    hit = float(np.mean([reference.route_reference(x, weights.router, top_k)[0].unique().numel() for x in inputs]))
    error = assert_close(
        "layer", layer.moe_layer(inputs[0], weights, top_k, workspace=work[0]),
        reference.moe_reference(inputs[0].float(), weights, top_k), BF16,
    )  # fmt: skip
    per_expert = 3 * weights.d_expert * weights.d_model
    moved = 2.0 * (hit * per_expert + weights.router.numel() + 2 * tokens * weights.d_model)
    flop = 2.0 * tokens * top_k * per_expert
    skew = float(torch.bincount(expert.flatten(), minlength=weights.experts).max()) / (tokens * top_k / weights.experts)
    labels = {
        "kernel": "moe_layer",
        "model": "qwen3-30b-a3b",
        "tokens": tokens,
        "load": load,
        "hit": hit,
        "max_over_mean": skew,
    }
    energy = tokens in ENERGY_TOKENS and load == "even"
    pairs = list(zip(inputs, work, strict=True))
    ours = [lambda x=x, w=w: layer.moe_layer(x, weights, top_k, workspace=w) for x, w in pairs]
    theirs = [lambda x=x: composed.composed_layer(x, weights, top_k) for x in inputs]
    cases = [
        Case(labels | {"variant": "ours"}, ours, moved, flop, error, energy),
        Case(labels | {"variant": "composed"}, theirs, moved, flop, None, energy),
    ]
    if tokens >= weights.experts // top_k:
        calls = [lambda x=x: composed.capacity_layer(x, weights, top_k, 2.0) for x in inputs[:2]]
        cases.append(Case(labels | {"variant": "capacity 2.0"}, calls, moved, flop))
    medians = table.add(cases)
    print(f"layer {load} {tokens}: {medians[0] * 1e6:.1f} us, composed x{medians[1] / medians[0]:.3f}", flush=True)


def grouped_rows(table: Table, model: str, part: str, weight: torch.Tensor, load: str, tokens: int) -> float:
    """Ours and PyTorch's grouped GEMM on sampled loads; returns the speed-up."""
    experts, n, k = weight.shape
    top_k = MODELS[model][3]
    rows, rng = tokens * top_k, np.random.default_rng(tokens)
    draws = 6 if tokens < 64 else 2
    counts = [
        np.asarray(laws.sample_counts(popularity(load, experts), top_k, tokens, rng)).reshape(-1) for _ in range(draws)
    ]
    offsets = [torch.tensor(np.append(0, c.cumsum()), dtype=torch.int32, device="cuda") for c in counts]
    inputs = [normal(rows, k) for _ in counts]
    tile = config.grouped_tile(rows, experts, k)
    torch_calls = [
        lambda x=x, o=o: composed.grouped_mm_torch(x, weight, o[1:]) for x, o in zip(inputs, offsets, strict=True)
    ]
    calls = [lambda x=x, o=o: grouped.grouped_mm(x, weight, o, tile) for x, o in zip(inputs, offsets, strict=True)]
    error = assert_close(f"grouped {model} {part} {tokens}", calls[0](), torch_calls[0](), BF16)
    hit = float(np.mean([(c > 0).sum() for c in counts]))
    skew = float(np.mean([laws.max_over_mean(c) for c in counts]))
    moved, flop = 2.0 * (hit * n * k + rows * (n + k)), 2.0 * rows * n * k
    labels = {
        "kernel": f"grouped_{part}",
        "model": model,
        "tokens": tokens,
        "load": load,
        "hit": hit,
        "max_over_mean": skew,
    }
    ours, theirs = table.add([
        Case(labels | {"variant": "ours"}, calls, moved, flop, error),
        Case(labels | {"variant": "torch._grouped_mm"}, torch_calls, moved, flop),
    ])  # fmt: skip
    return theirs / ours


def main(out: Path) -> None:
    """Write every row to out/moe.csv and print the speed-ups."""
    table = Table(measure_ceilings())
    for load in ("even", "zipf"):
        weights = layer_weights(load, "qwen3-30b-a3b")
        for tokens in LAYER_TOKENS if load == "even" else SKEWED_LAYER_TOKENS:
            layer_rows(table, weights, load, tokens)
        del weights
    table.samples = 9
    ratios: dict[tuple[str, str, str, int], float] = {}
    for model, (experts, d_expert, d_model, _) in MODELS.items():
        for part, n, k in (("gate_up", 2 * d_expert, d_model), ("down", d_model, d_expert)):
            weight = normal(experts, n, k, scale=k**-0.5)
            for load in ("even", "zipf"):
                for tokens in GROUPED_TOKENS:
                    ratios[model, part, load, tokens] = grouped_rows(table, model, part, weight, load, tokens)
            del weight
    slowest = sorted(ratios.items(), key=lambda item: item[1])[:6]
    print(f"grouped: geometric mean x{np.exp(np.mean(np.log(list(ratios.values())))):.3f}, slowest {slowest}")
    header = provenance("mixture of experts: layer and grouped GEMM", "python -m calibration.kernels.bench_moe OUT")
    ceilings = {
        "copy_tb_per_s": f"{table.ceilings.bytes_per_s * 1e-12:.3f}",
        "gemm_tflop_per_s": f"{table.ceilings.flop_per_s * 1e-12:.1f}",
    }
    write_csv(out / "moe.csv", header | ceilings, table.rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
