"""Products that skip inputs below a threshold: in one pass, or packing the survivors first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import ThresholdGemv

_CHECKED_COLUMNS = 512


def candidates(op: ThresholdGemv, bench: Bench) -> Sequence[Candidate]:
    """Both kernels; the threshold leaves the asked share of each buffer set's inputs."""
    from sparsesim.kernels.delta.gemv import skip_gemv
    from sparsesim.kernels.delta.reference import calibrate_delta, sparse_gemv_reference

    if op.dtype != "bf16":
        raise UnsupportedError(f"threshold_gemv: dtype {op.dtype!r}; measured is bf16")
    tokens, d_in, d_out = int(op.tokens), int(op.d_in), int(op.d_out)
    dense_bytes = float(op.hbm_bytes()) / max(float(op.density), 1e-3)
    take = bench.inputs.take
    sets = [(take(tokens, d_in), take(d_in, d_out)) for _ in range(bench.sets(dense_bytes))]
    deltas = [calibrate_delta(x, float(op.density)) for x, _ in sets]
    some = spread_indices(d_out, _CHECKED_COLUMNS)
    expected = sparse_gemv_reference(sets[0][0], sets[0][1][:, some], deltas[0])
    skip = [partial(_first, skip_gemv, x, w, delta) for (x, w), delta in zip(sets, deltas, strict=True)]
    gather = [partial(_gather, x, w, _vector(delta, x)) for (x, w), delta in zip(sets, deltas, strict=True)]
    return [
        Candidate(name, calls, lambda out: (out[:, some], expected))
        for name, calls in (("skip", skip), ("gather", gather))
    ]


def _first(kernel: Any, x: Any, weight: Any, delta: float) -> Any:
    return kernel(x, weight, delta)[0]


def _gather(x: Any, weight: Any, delta: Any) -> Any:
    from sparsesim.kernels.delta.gemv import gather_gemv
    from sparsesim.kernels.delta.threshold import threshold

    return gather_gemv(threshold(x, delta), 0, weight)


def _vector(delta: float, x: Any) -> Any:
    return torch.tensor([delta], dtype=torch.float32, device=x.device)
