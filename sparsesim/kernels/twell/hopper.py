"""The CUDA C++ kernels of the TwELL family, for Hopper in bf16: where Triton stays below what the chip can do."""

from __future__ import annotations

from ctypes import CDLL
from pathlib import Path
from typing import Any

import torch

from sparsesim.kernels.common import native
from sparsesim.kernels.common.requirements import KernelRequirementError, require_tensor
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.pack import processors
from sparsesim.kernels.twell.packed import Packed
from sparsesim.kernels.twell.weights import FfnWeights

_FOLDER = Path(__file__).parent / "cuda"
TILE = 256
"""Columns of a tile of the pack GEMM."""
HOT_GRID = 128
"""Neurons of a hot tile: as many gate columns beside as many up columns."""


def _library(name: str) -> CDLL:
    return native.hopper_library(_FOLDER / f"{name}.cu")


def pack_gate(
    x: Any,
    weights: FfnWeights,
    form: TwellFormat | None = None,
    out: Any = None,
    hot: int = 0,
    apart: bool = False,
) -> Packed:
    """TwELL words of ``relu(x Wg^T)`` by wgmma, and what the first ``hot`` neurons give; see ``packed.Packed``.

    Entries of a tile lie in the order of the accumulator fragment, the same in every run, not by column. ``hot``: a
    multiple of 128 below F.
    """
    form = form or TwellFormat()
    require_tensor("twell pack (Hopper)", "x", x, (None, weights.width), (torch.bfloat16,))
    require_tensor("twell pack (Hopper)", "gate", weights.gate, (None, None), (torch.bfloat16,))
    if form.tile != TILE:
        raise KernelRequirementError(f"twell pack (Hopper): tile is {form.tile}, must be {TILE}")
    if hot % HOT_GRID or not 0 <= hot < weights.neurons:
        raise KernelRequirementError(f"twell pack (Hopper): hot is {hot}, must be a multiple of {HOT_GRID} below F")
    rows, row_words = x.shape[0], form.row_words(weights.neurons - hot)
    words = torch.empty(rows, row_words, dtype=torch.int32, device=x.device) if out is None else out
    gated = torch.empty(rows, hot, dtype=x.dtype, device=x.device) if hot else None
    projected = torch.empty_like(gated) if hot and apart else None
    status = _library("pack_gate").twell_pack_gate(
        *(native.pointer(t) for t in (x, weights.gate, weights.up, words, gated, projected)),
        rows,
        weights.neurons,
        hot,
        weights.width,
        row_words,
        form.words,
        processors(x),
        native.current_stream(),
    )
    native.check(status, "twell pack (Hopper)")
    return Packed(words, gated, projected)


DECODE_TOKENS = (1, 2, 4, 8)
"""Tokens for which the decode kernel is built; other counts are padded up to the next."""


def decode_ffn(x: Any, weights: FfnWeights, out: Any = None) -> Any:
    """The sparse FFN of 1 to 8 tokens, ``[M, d]``: as ``decode.decode_ffn`` but nearer to the memory's speed.

    It starts to read the gate before the kernel ahead of it in the stream has ended (programmatic dependent launch),
    so that kernel must not be the one that writes the gate.
    """
    require_tensor("twell decode (Hopper)", "x", x, (None, weights.width), (torch.bfloat16,))
    rows, width = x.shape
    if not 1 <= rows <= DECODE_TOKENS[-1]:
        raise KernelRequirementError(f"twell decode (Hopper): {rows} tokens, must be 1 to {DECODE_TOKENS[-1]}")
    tokens = next(count for count in DECODE_TOKENS if count >= rows)
    padded = x if rows == tokens else torch.nn.functional.pad(x, (0, 0, 0, tokens - rows))
    hidden = torch.empty(tokens, weights.neurons, dtype=torch.float32, device=x.device)
    full = torch.empty(tokens, width, dtype=x.dtype, device=x.device) if out is None or rows < tokens else out
    status = _library("decode").twell_decode(
        *(native.pointer(t) for t in (padded, weights.gate, weights.up, weights.down, hidden, full)),
        tokens,
        weights.neurons,
        width,
        native.current_stream(),
    )
    native.check(status, "twell decode (Hopper)")
    return full if rows == tokens else full[:rows]
