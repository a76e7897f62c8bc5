"""Gate GEMM whose epilogue materialises TwELL: ``relu(x Wg^T)`` never reaches memory as a dense matrix.

A persistent grid walks 128 x 256 output tiles. The epilogue rounds the accumulator to the weights' type,
marks the positives, numbers them along the row by a cumulative sum (so the order is by column in every run,
without atomics) and scatters ``(column, bf16)`` words. Bytes: x and Wg read once, ``M * row_words`` words
allocated of which only the counts and entries are written. FLOP: ``2 M F d``.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import interpreting, require_gpu, require_tensor
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.launch import GateLaunch
from sparsesim.kernels.twell.weights import FfnWeights


@triton.jit
def pack_words(
    acc, words, rows, tile, M, F, first, row_words, TILE: tl.constexpr, WORDS: tl.constexpr, DTYPE: tl.constexpr
):
    """Write the TwELL words of an accumulator ``[BLOCK_M, TILE]`` (``rows``: its row numbers); columns count from
    ``first`` on.
    """
    value = acc.to(DTYPE).to(tl.bfloat16).to(tl.float32)
    column = tile * TILE + tl.arange(0, TILE)
    positive = (value > 0) & (column[None, :] < F)
    slot = tl.cumsum(positive.to(tl.int32), axis=1)
    count = tl.sum(positive.to(tl.int32), axis=1)
    bits = value.to(tl.int32, bitcast=True)
    base = words + rows.to(tl.int64) * row_words + tile * WORDS
    inside = rows < M
    kept = positive & (slot < WORDS) & inside[:, None]
    tl.store(base[:, None] + slot, bits | (first + column)[None, :], mask=kept)
    tl.store(base, count, mask=inside)


@triton.jit
def tile_coordinates(index, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Walk output tiles in groups of ``GROUP_M`` rows of tiles, so that neighbours in time share operands
    in L2.
    """
    width = GROUP_M * tiles_n
    first = (index // width) * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    return first + (index % width) % height, (index % width) // height


@triton.jit
def pack_gate_kernel(
    x,
    gate,
    words,
    M,
    F,
    first,
    row_words,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROGRAMS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Pack the tiles ``program, program + PROGRAMS, ...``; ``x`` and ``gate`` are tensor descriptors."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(F, TILE)
    for index in range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS):
        tile_m, tile_n = tile_coordinates(index, tiles_m, tiles_n, GROUP_M)
        acc = tl.zeros((BLOCK_M, TILE), dtype=tl.float32)
        for k in range(0, D, BLOCK_K):
            left = x.load([tile_m * BLOCK_M, k])
            right = gate.load([tile_n * TILE, k])
            acc = tl.dot(left, right.T, acc)
        rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        pack_words(acc, words, rows, tile_n, M, F, first, row_words, TILE, WORDS, DTYPE)


TRITON_DTYPE = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


def pack_gate(
    x: Any,
    weights: FfnWeights,
    form: TwellFormat | None = None,
    launch: GateLaunch | None = None,
    out: Any = None,
    hot: int = 0,
) -> Any:
    """TwELL words of ``relu(x Wg^T)``: int32 ``[M, row_words]``; words past a tile's count stay as they were.

    ``x``: ``[M, d]``, any M. ``out`` may be given to reuse its memory. The first ``hot`` neurons are left out.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    require_gpu("twell pack")
    require_tensor("twell pack", "x", x, (None, weights.width), (weights.gate.dtype,))
    form, launch = form or TwellFormat(), launch or GateLaunch()
    cold = weights.neurons - hot
    rows, row_words = x.shape[0], form.row_words(cold)
    words = torch.empty(rows, row_words, dtype=torch.int32, device=x.device) if out is None else out
    tiles = triton.cdiv(rows, launch.block_m) * form.tiles(cold)
    programs = min(processors(x), tiles)
    pack_gate_kernel[(programs,)](
        TensorDescriptor.from_tensor(x, [launch.block_m, launch.block_k]),
        TensorDescriptor.from_tensor(weights.gate[hot:], [form.tile, launch.block_k]),
        words,
        rows,
        cold,
        hot,
        row_words,
        D=weights.width,
        BLOCK_M=launch.block_m,
        BLOCK_K=launch.block_k,
        TILE=form.tile,
        WORDS=form.words,
        GROUP_M=launch.group_m,
        PROGRAMS=programs,
        DTYPE=TRITON_DTYPE[x.dtype],
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return words


def processors(tensor: Any) -> int:
    """Streaming multiprocessors of the tensor's GPU; 4 stand in for them under the interpreter."""
    if interpreting() or not tensor.is_cuda:
        return 4
    return int(torch.cuda.get_device_properties(tensor.device).multi_processor_count)
