"""Latent attention's decode with the up-projections absorbed, by our split-cache kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import MlaDecode

SCALE = 192**-0.5
"""Of the scores: DeepSeek-V3's heads are 128 + 64 wide before the up-projection is absorbed."""
_CHECKED = 8


def decode(op: MlaDecode, bench: Bench) -> Sequence[Candidate]:
    """One new token over caches that are all equally long."""
    from sparsesim.kernels.mla.decode import mla_decode

    if op.dtype != "bf16" or op.q_tok != 1:
        raise UnsupportedError(f"mla_decode: measured is bf16 with one new token, not {op.dtype} with {op.q_tok:g}")
    batch, heads, kv, rank = int(op.batch), int(op.heads), int(op.kv_tok), int(op.kv_rank)
    width = rank + int(op.rope_dim)
    lengths = torch.full((batch,), kv, dtype=torch.int32, device=bench.device)
    take = bench.inputs.take
    sets = [(take(batch, heads, width), take(batch, kv, width)) for _ in range(bench.sets(float(op.hbm_bytes())))]
    calls = [partial(mla_decode, q, cache, lengths, rank, SCALE) for q, cache in sets]
    q, cache = sets[0]

    def check(out: Any) -> tuple[Any, Any]:
        b, h = spread_indices(batch, _CHECKED), spread_indices(heads, _CHECKED)
        pairs = [(b[-1 - i % len(b)], h[i % len(h)]) for i in range(max(len(b), len(h)))]
        rows = [
            torch.softmax(SCALE * cache[i].float() @ q[i, j].float(), 0) @ cache[i, :, :rank].float() for i, j in pairs
        ]
        return torch.stack([out[i, j] for i, j in pairs]), torch.stack(rows)

    return [Candidate("triton", calls, check)]
