"""Plain PyTorch reference of every step, on any device: what the kernels must equal.

The FFN is ``y = (relu(x Wg^T) * (x Wu^T)) Wd`` with ``x [M, d]`` and the weights of ``FfnWeights`` (``[F,
d]`` each).
"""

from __future__ import annotations

from typing import Any

import torch

from sparsesim.kernels.twell.format import Csr, Rows, TwellFormat, entry, entry_columns, entry_values
from sparsesim.kernels.twell.weights import FfnWeights


def gate(x: Any, weights: FfnWeights) -> Any:
    """``relu(x Wg^T)`` in float32, rounded to the type of ``x``: ``[M, F]``."""
    return torch.relu(x.float() @ weights.gate.float().T).to(x.dtype)


def ffn(x: Any, weights: FfnWeights) -> Any:
    """The dense FFN in float32: ``[M, d]`` float32. The oracle of every path."""
    wide = x.float()
    hidden = torch.relu(wide @ weights.gate.float().T) * (wide @ weights.up.float().T)
    return hidden @ weights.down.float()


def pack(gated: Any, form: TwellFormat) -> Any:
    """TwELL words of a gated activation ``[M, F]``: int32 ``[M, row_words]``, unused words zero."""
    rows, neurons = gated.shape
    words = torch.zeros(rows, form.tiles(neurons), form.words, dtype=torch.int32, device=gated.device)
    for row in range(rows):
        for tile in range(form.tiles(neurons)):
            begin = tile * form.tile
            local = torch.nonzero(gated[row, begin : begin + form.tile] > 0).flatten()
            words[row, tile, 0] = len(local)
            kept = local[: form.slots]
            words[row, tile, 1 : 1 + len(kept)] = entry(kept + begin, gated[row, begin + kept])
    return words.reshape(rows, -1)


def unpack(words: Any, neurons: int, form: TwellFormat) -> tuple[Any, Any]:
    """``(gated, overflowed)`` of TwELL words: the entries kept, ``[M, F]`` float32, and a flag per row."""
    tiled = words.reshape(len(words), -1, form.words)
    counts = tiled[:, :, 0]
    gated = torch.zeros(len(words), neurons, device=words.device)
    for row, tile in torch.nonzero(counts).tolist():
        kept = tiled[row, tile, 1 : 1 + min(int(counts[row, tile]), form.slots)]
        gated[row, entry_columns(kept)] = entry_values(kept)
    return gated, (counts > form.slots).any(dim=1)


def to_rows(gated: Any, capacity: int) -> Rows:
    """ELL rows of a gated activation; entries past a row's count are zero."""
    positive = gated > 0
    counts = positive.sum(dim=1).to(torch.int32)
    entries = torch.zeros(len(gated), capacity, dtype=torch.int32, device=gated.device)
    for row in range(len(gated)):
        kept = torch.nonzero(positive[row]).flatten()[:capacity]
        entries[row, : len(kept)] = entry(kept, gated[row, kept])
    return Rows(counts, entries)


def to_csr(gated: Any) -> Csr:
    """CSR of a gated activation."""
    positive = gated > 0
    starts = torch.zeros(len(gated) + 1, dtype=torch.int32, device=gated.device)
    starts[1:] = positive.sum(dim=1).cumsum(0)
    columns = torch.nonzero(positive)[:, 1]
    return Csr(starts, entry(columns, gated[positive]))


def up_down(x: Any, rows: Rows, weights: FfnWeights) -> Any:
    """``sum_j g_tj (x_t . Wu_j) Wd_j`` over the entries of each row, float32 ``[M, d]``."""
    out = torch.zeros(x.shape[0], weights.width, device=x.device)
    for row in range(len(out)):
        kept = rows.entries[row, : int(rows.counts[row])]
        columns = entry_columns(kept)
        hidden = entry_values(kept) * (weights.up[columns].float() @ x[row].float())
        out[row] = hidden @ weights.down[columns].float()
    return out
