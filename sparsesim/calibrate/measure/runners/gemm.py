"""Dense products y[m, n] = x[m, k] w[n, k]^T by the vendor library: bf16 (cuBLAS) and fp8 with one scale per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import BOUND_BF16, BOUND_FP8, Candidate, UnsupportedError, spread_indices
from sparsesim.work import Gemm

_CHECKED_ROWS, _CHECKED_COLUMNS = 48, 512
_FP8_MULTIPLE = 16
"""n and k of fp8 products must be multiples of this (torch._scaled_mm)."""


def candidates(op: Gemm, bench: Bench) -> Sequence[Candidate]:
    """One backend a dtype; weights are [n, k], as linear layers store them; the output is poisoned first."""
    if op.weights or op.density != 1.0:
        raise UnsupportedError("gemm: weights of another dtype and density have no library kernel to measure")
    if op.dtype not in ("bf16", "fp8"):
        raise UnsupportedError(f"gemm: dtype {op.dtype!r}; measured are bf16 and fp8")
    m, n, k = int(op.m), int(op.n), int(op.k)
    if op.dtype == "fp8" and (n % _FP8_MULTIPLE or k % _FP8_MULTIPLE):
        raise UnsupportedError(f"gemm: fp8 needs n and k in multiples of {_FP8_MULTIPLE}, got {n} and {k}")
    sets = [
        (
            bench.inputs.take(m, k, dtype=op.dtype),
            bench.inputs.take(n, k, dtype=op.dtype),
            bench.outputs.take(m, n),
        )
        for _ in range(bench.sets(float(op.hbm_bytes())))
    ]
    sets[0][2].fill_(float("nan"))
    x, w, _ = sets[0]

    def check(out: Any) -> tuple[Any, Any]:
        rows, columns = spread_indices(m, _CHECKED_ROWS), spread_indices(n, _CHECKED_COLUMNS)
        return out[rows][:, columns], x[rows].float() @ w[columns].float().t()

    if op.dtype == "bf16":
        calls = [partial(torch.mm, x, w.t(), out=y) for x, w, y in sets]
        return [Candidate("cublas", calls, check, BOUND_BF16)]
    one = torch.ones((), device=bench.device)
    calls = [partial(_scaled, x, w, y, one) for x, w, y in sets]
    return [Candidate("scaled_mm", calls, check, BOUND_FP8)]


def _scaled(x: Any, w: Any, y: Any, one: Any) -> Any:
    return torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True, out=y)
