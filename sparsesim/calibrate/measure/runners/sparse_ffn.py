"""Feed-forward with activation-sparse gated ReLU: the dense form, the TwELL family, and the format `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsesim import laws
from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import SparseFfn

DECODE_TOKENS = 64
"""Most tokens of the kernel for decoding."""
PATHS = {"dense": ("dense",), "twell": ("twell",), "compact": ("gate_compact",), "ell": ("ell",), "csr": ("csr",)}
"""Paths of `sparsesim.kernels.twell.ffn` by format; `auto` is the fastest of all that serve."""
_CHECKED = 32


def candidates(op: SparseFfn, bench: Bench) -> Sequence[Candidate]:
    """The paths of the format, over layers whose gate follows the pattern with nnz active neurons a token."""
    from sparsesim.kernels.twell import reference
    from sparsesim.kernels.twell.synthetic import synthetic_layer, tokens

    if op.dtype != "bf16":
        raise UnsupportedError(f"sparse_ffn: dtype {op.dtype!r}; measured is bf16")
    count, width = int(op.tokens), int(op.d_model)
    sets = []
    for seed in range(bench.sets(float(op.hbm_bytes()))):
        layer = synthetic_layer(_law(op, seed), width, torch.bfloat16, bench.device, seed)
        sets.append((tokens(layer, count, seed), layer))
    some = spread_indices(count, _CHECKED)
    expected = reference.ffn(sets[0][0][some], sets[0][1].weights)
    return [
        Candidate(path, [_call(path, x, layer) for x, layer in sets], lambda out: (out[some], expected))
        for path in _paths(op.format, count)
    ]


def _paths(form: str, tokens: int) -> tuple[str, ...]:
    if form == "auto":
        return ("dense", "twell", "hot_cold", "gate_compact", *(("decode",) if tokens <= DECODE_TOKENS else ()))
    if form not in PATHS:
        raise UnsupportedError(f"sparse_ffn: format {form!r}; measured are auto, {', '.join(PATHS)}")
    return PATHS[form]


def _law(op: SparseFfn, seed: int) -> laws.ActivationLaw:
    neurons, nnz = int(op.d_ff), float(op.nnz)
    if op.pattern == "zipf":
        return laws.ActivationLaw(laws.shuffled(laws.zipf_frequencies(neurons, nnz), seed))
    if op.pattern == "independent":
        return laws.ActivationLaw(laws.uniform_frequencies(neurons, nnz))
    raise UnsupportedError(f"sparse_ffn: pattern {op.pattern!r}; measured are zipf and independent")


def _call(path: Any, x: Any, layer: Any) -> Any:
    from sparsesim.kernels.twell.ffn import ffn
    from sparsesim.kernels.twell.weights import FusedWeights

    if path == "dense":
        return partial(ffn, x, FusedWeights.of(layer.weights), path)
    if path == "hot_cold":
        return partial(ffn, x, layer.weights.by_frequency(layer.law.frequency), path)
    return partial(ffn, x, layer.weights, path)
