"""Latent attention over a prompt, expanded: keys of nope_dim + rope_dim and values of v_dim per head.

cuDNN takes values narrower than keys; FlashAttention-2 takes them padded with zeros to the keys' width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError
from sparsesim.calibrate.measure.runners.attention import cudnn, flash, reference, some_queries
from sparsesim.work import MlaPrefill


def candidates(op: MlaPrefill, bench: Bench) -> Sequence[Candidate]:
    """Both kernels for whole prompts, FlashAttention-2 alone for chunks of longer ones."""
    if op.dtype != "bf16" or bench.device != "cuda":
        raise UnsupportedError(f"mla_prefill: measured is bf16 on a CUDA device, not {op.dtype} on {bench.device}")
    b, q, kv, h = int(op.batch), int(op.q_tok), int(op.kv_tok), int(op.heads)
    key, value = int(op.nope_dim + op.rope_dim), int(op.v_dim)
    take = bench.inputs.take
    sets = [
        (take(b, q, h, key), take(b, kv, h, key), take(b, kv, h, value))
        for _ in range(bench.sets(float(op.hbm_bytes())))
    ]
    padded = [(q_, k_, torch.nn.functional.pad(v_, (0, key - value))) for q_, k_, v_ in sets]
    queries = some_queries(b, q, h)
    expected = reference(*sets[0], math.inf, queries)

    def check(out: Any) -> tuple[Any, Any]:
        return torch.stack([out[i][:value] for i in queries]), expected

    found = [Candidate("flash", [partial(flash, *s, math.inf) for s in padded], check)]
    if q == kv:
        found.append(Candidate("cudnn", [partial(cudnn, *s, True) for s in sets], check))
    return found
