"""Dense path of the rows on a worklist, sized on the device: no host ever learns how many rows there are.

Two persistent kernels (gate+up with the activation, then down) on gathered rows of x. Each reads the list's
length and walks only the tiles that hold rows, so an empty list costs two launches. The hidden buffer has
room for every row (``[M, F]``, as the dense FFN's own) but only listed rows touch it.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.twell.gather import Worklist
from sparsesim.kernels.twell.pack import TRITON_DTYPE, processors
from sparsesim.kernels.twell.weights import FfnWeights

BLOCK_M = 64
BLOCK_N = 128
BLOCK_K = 64


@triton.jit
def _hidden_kernel(
    x,
    gate,
    up,
    hidden,
    list_count,
    list_rows,
    F,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DTYPE: tl.constexpr,
):
    count = tl.load(list_count)
    tiles_n = tl.cdiv(F, BN)
    for index in range(tl.program_id(0), tl.cdiv(count, BM) * tiles_n, tl.num_programs(0)):
        slot = (index // tiles_n) * BM + tl.arange(0, BM)
        neuron = (index % tiles_n) * BN + tl.arange(0, BN)
        row = tl.load(list_rows + slot, mask=slot < count, other=0).to(tl.int64)
        gated = tl.zeros((BM, BN), dtype=tl.float32)
        upped = tl.zeros((BM, BN), dtype=tl.float32)
        for k in range(0, D, BK):
            column = k + tl.arange(0, BK)
            token = tl.load(x + row[:, None] * D + column[None, :], mask=(slot < count)[:, None], other=0.0)
            offset = neuron.to(tl.int64)[None, :] * D + column[:, None]
            inside = (neuron < F)[None, :]
            gated = tl.dot(token, tl.load(gate + offset, mask=inside, other=0.0), gated, input_precision="ieee")
            upped = tl.dot(token, tl.load(up + offset, mask=inside, other=0.0), upped, input_precision="ieee")
        value = tl.maximum(gated.to(DTYPE).to(tl.bfloat16).to(tl.float32), 0.0) * upped
        place = hidden + slot.to(tl.int64)[:, None] * F + neuron[None, :]
        tl.store(place, value.to(DTYPE), mask=(slot < count)[:, None] & (neuron < F)[None, :])


@triton.jit
def _down_kernel(
    hidden,
    down,
    out,
    list_count,
    list_rows,
    F,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ADD: tl.constexpr,
):
    count = tl.load(list_count)
    tiles_n = tl.cdiv(D, BN)
    for index in range(tl.program_id(0), tl.cdiv(count, BM) * tiles_n, tl.num_programs(0)):
        slot = (index // tiles_n) * BM + tl.arange(0, BM)
        column = (index % tiles_n) * BN + tl.arange(0, BN)
        row = tl.load(list_rows + slot, mask=slot < count, other=0).to(tl.int64)
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for begin in range(0, F, BK):
            neuron = begin + tl.arange(0, BK)
            left = hidden + slot.to(tl.int64)[:, None] * F + neuron[None, :]
            right = down + neuron.to(tl.int64)[:, None] * D + column[None, :]
            left_tile = tl.load(left, mask=(slot < count)[:, None], other=0.0)
            right_tile = tl.load(right, mask=(column < D)[None, :], other=0.0)
            acc = tl.dot(left_tile, right_tile, acc, input_precision="ieee")
        place = out + row[:, None] * D + column[None, :]
        inside = (slot < count)[:, None] & (column < D)[None, :]
        if ADD:
            acc += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, acc.to(out.dtype.element_ty), mask=inside)


def dense_rows(x: Any, weights: FfnWeights, work: Worklist, out: Any, hot: int = 0) -> None:
    """Write the dense FFN of the listed rows into ``out``, or add it to what the first ``hot`` neurons gave there."""
    neurons, width = weights.neurons - hot, weights.width
    hidden = torch.empty(x.shape[0], neurons, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(x.shape[0], BLOCK_M)
    first = (min(2 * processors(x), tiles * triton.cdiv(neurons, BLOCK_N)),)
    second = (min(2 * processors(x), tiles * triton.cdiv(width, BLOCK_N)),)
    sizes = {"D": width, "BM": BLOCK_M, "BN": BLOCK_N, "BK": BLOCK_K, "num_warps": 8}
    _hidden_kernel[first](
        x,
        weights.gate[hot:],
        weights.up[hot:],
        hidden,
        work.count,
        work.rows,
        neurons,
        DTYPE=TRITON_DTYPE[x.dtype],
        **sizes,
    )
    _down_kernel[second](hidden, weights.down[hot:], out, work.count, work.rows, neurons, ADD=hot > 0, **sizes)
