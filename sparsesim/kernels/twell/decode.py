"""Decode path, 1 to 64 tokens: read the whole gate once, and only the active rows of up and down.

At one token a gated FFN in bf16 is its 69 MB of weights (d 2048, F 5632); the gate is a third of them, and
the rest shrinks to ``union nnz * 8 KB``. Two kernels:

1. *gate+up*: a program holds ``block_f`` neurons and all tokens; the gate product runs on tensor cores
(tokens padded
   to 16), then the up rows are loaded only for neurons active for some token (a masked row costs no
   traffic). Hidden values go to ``[F, tokens]``.
2. *down*: a program holds ``block_d`` columns and one of ``splits`` shares of F; blocks of neurons with no
active
   one are passed over, inactive rows are masked. The last program of a column block to arrive adds the
   shares in a fixed order, so the result does not depend on timing.

No tile has a capacity here: exact for any nnz.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import KernelRequirementError, require_gpu, require_tensor
from sparsesim.kernels.twell.launch import DecodeLaunch
from sparsesim.kernels.twell.pack import TRITON_DTYPE
from sparsesim.kernels.twell.weights import FfnWeights

MAX_TOKENS = 64


@triton.jit
def _gate_up_kernel(
    x,
    gate,
    up,
    hidden,
    M,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DTYPE: tl.constexpr,
):
    neuron = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    token = tl.arange(0, TOKENS)
    lane = tl.arange(0, BLOCK_K)
    row = neuron.to(tl.int64)[:, None] * D
    gated = tl.zeros((BLOCK_F, TOKENS), dtype=tl.float32)
    for k in range(0, D, BLOCK_K):
        column = k + lane
        weight = tl.load(gate + row + column[None, :], mask=column[None, :] < D, other=0.0)
        inside = (token[None, :] < M) & (column[:, None] < D)
        left = tl.load(x + token[None, :] * D + column[:, None], mask=inside, other=0.0)
        gated = tl.dot(weight, left, gated, input_precision="ieee")
    value = tl.maximum(gated.to(DTYPE).to(tl.bfloat16).to(tl.float32), 0.0)
    active = tl.max(value, axis=1) > 0
    upped = tl.zeros((BLOCK_F, TOKENS), dtype=tl.float32)
    if tl.max(active.to(tl.int32), axis=0) > 0:
        for k in range(0, D, BLOCK_K):
            column = k + lane
            weight = tl.load(up + row + column[None, :], mask=active[:, None] & (column[None, :] < D), other=0.0)
            inside = (token[None, :] < M) & (column[:, None] < D)
            left = tl.load(x + token[None, :] * D + column[:, None], mask=inside, other=0.0)
            upped = tl.dot(weight, left, upped, input_precision="ieee")
    place = hidden + neuron[:, None] * TOKENS + token[None, :]
    tl.store(place, (value * upped).to(DTYPE))


@triton.jit
def _down_kernel(
    hidden,
    down,
    partial,
    arrived,
    out,
    M,
    F,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    SPLITS: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    token = tl.arange(0, TOKENS)
    share = tl.cdiv(tl.cdiv(F, BLOCK_H), SPLITS) * BLOCK_H
    first = tl.program_id(1) * share
    acc = tl.zeros((TOKENS, BLOCK_D), dtype=tl.float32)
    for begin in range(first, tl.minimum(first + share, F), BLOCK_H):
        neuron = begin + tl.arange(0, BLOCK_H)
        place = hidden + neuron[None, :] * TOKENS + token[:, None]
        value = tl.load(place, mask=(neuron < F)[None, :], other=0.0)
        active = tl.max(tl.abs(value.to(tl.float32)), axis=0) > 0
        if tl.max(active.to(tl.int32), axis=0) > 0:
            offset = neuron.to(tl.int64)[:, None] * D + column[None, :]
            weight = tl.load(down + offset, mask=active[:, None] & (column[None, :] < D), other=0.0)
            acc = tl.dot(value, weight, acc, input_precision="ieee")
    place = token[:, None] * D + column[None, :]
    inside = (token[:, None] < M) & (column[None, :] < D)
    if SPLITS == 1:
        tl.store(out + place, acc.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + tl.program_id(1) * TOKENS * D + place, acc, mask=column[None, :] < D)
        tl.debug_barrier()
        if tl.atomic_add(arrived + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1:
            total = tl.zeros((TOKENS, BLOCK_D), dtype=tl.float32)
            for split in range(SPLITS):
                total += tl.load(partial + split * TOKENS * D + place, mask=column[None, :] < D, other=0.0)
            tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)
            tl.store(arrived + tl.program_id(0), 0)


def decode_ffn(x: Any, weights: FfnWeights, launch: DecodeLaunch | None = None, out: Any = None) -> Any:
    """The sparse FFN of ``x [M, d]``, M from 1 to 64: ``[M, d]``."""
    require_gpu("twell decode")
    require_tensor("twell decode", "x", x, (None, weights.width), (weights.gate.dtype,))
    rows, width = x.shape
    if not 1 <= rows <= MAX_TOKENS:
        raise KernelRequirementError(f"twell decode: {rows} tokens, must be 1 to {MAX_TOKENS}")
    launch = launch or DecodeLaunch()
    tokens = max(16, triton.next_power_of_2(rows))
    hidden = torch.empty(weights.neurons, tokens, dtype=x.dtype, device=x.device)
    columns = triton.cdiv(width, launch.block_d)
    partial = torch.empty(launch.splits, tokens, width, dtype=torch.float32, device=x.device)
    arrived = torch.zeros(columns, dtype=torch.int32, device=x.device)
    out = torch.empty_like(x) if out is None else out
    _gate_up_kernel[(weights.neurons // launch.block_f,)](
        x,
        weights.gate,
        weights.up,
        hidden,
        rows,
        D=width,
        TOKENS=tokens,
        BLOCK_F=launch.block_f,
        BLOCK_K=launch.block_k,
        DTYPE=TRITON_DTYPE[x.dtype],
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    _down_kernel[(columns, launch.splits)](
        hidden,
        weights.down,
        partial,
        arrived,
        out,
        rows,
        weights.neurons,
        D=width,
        TOKENS=tokens,
        BLOCK_D=launch.block_d,
        BLOCK_H=launch.block_h,
        SPLITS=launch.splits,
        num_warps=launch.warps,
    )
    return out
