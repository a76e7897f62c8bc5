"""Training of a sparse gated FFN: forward and backward over the non-zeros, with a dense backup for heavy rows.

With ``g = relu(x Wg^T)``, ``u = x Wu^T``, ``h = g u``, ``y = h Wd`` and the gradient ``dy``::

    dh = dy Wd^T     du = dh g     dg = dh u  (where g > 0)
    dx = du Wu + dg Wg     dWd = h^T dy     dWu = du^T x     dWg = dg^T x

Each of these is needed only where ``g > 0``. Saved for the backward are x, one word and one float per non-zero; a
dense layer saves three ``[M, F]`` matrices. The products over rows of a token gather weight rows; those over the
tokens of a neuron gather rows of x and dy through lists sorted by neuron, except for the ``hot`` busiest neurons,
whose columns go through dense products (on a Zipf pattern the top 256 of 5632 hold more than half the non-zeros).

Rows with more than ``capacity`` non-zeros, or with an overflowing tile, are computed densely and recomputed in the
backward. Their number, and that of the non-zeros, is read by the host once per forward: it sizes what is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.twell.format import TwellFormat, entry_columns, entry_values
from sparsesim.kernels.twell.gate import pack_gate
from sparsesim.kernels.twell.launch import GateLaunch
from sparsesim.kernels.twell.sums import column_sums, csr_from_words, row_counts, sampled_dot, weighted_rows
from sparsesim.kernels.twell.weights import FfnWeights


@dataclass(frozen=True)
class TrainingSettings:
    """``capacity``: most non-zeros of a sparse row; ``hot``: neurons whose weight gradients use dense products."""

    capacity: int = 128
    hot: int = 256
    form: TwellFormat = TwellFormat()
    gate: GateLaunch = GateLaunch()


def sparse_ffn_train(x: Any, weights: FfnWeights, settings: TrainingSettings | None = None) -> Any:
    """``(relu(x Wg^T) * (x Wu^T)) Wd`` with gradients of x and the three matrices: ``[M, d]``.

    Equal to the dense layer on any input; the fewer non-zeros, the faster and smaller.
    """
    require_gpu("twell training")
    require_tensor("twell training", "x", x, (None, weights.width), (weights.gate.dtype,))
    settings = settings or TrainingSettings()
    return _SparseFfn.apply(x, weights.gate, weights.up, weights.down, settings)


class _SparseFfn(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy here
    """See the module's equations; ``down`` is ``[F, d]``."""

    @staticmethod
    def forward(ctx: Any, x: Any, gate: Any, up: Any, down: Any, settings: TrainingSettings) -> Any:
        weights = FfnWeights(gate, up, down)
        words = pack_gate(x, weights, settings.form, settings.gate)
        counts, is_heavy = row_counts(words, weights.neurons, settings.form, settings.capacity)
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        nonzeros, heavies = torch.stack([starts[-1], is_heavy.sum()]).tolist()
        entries, tokens = csr_from_words(words, counts, starts, int(nonzeros), weights.neurons, settings.form)
        del words
        projected = sampled_dot(x, up, starts, entries)
        out = weighted_rows(starts, entries, [(entry_values(entries) * projected, down)], x)
        heavy = torch.nonzero(is_heavy).flatten() if heavies else None
        if heavy is not None:
            out[heavy] = _dense_forward(x[heavy], weights)
        ctx.save_for_backward(x, gate, up, down, starts, entries, tokens, projected, heavy)
        ctx.hot = min(settings.hot, weights.neurons)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, gate, up, down, starts, entries, tokens, projected, heavy = ctx.saved_tensors
        dy = grads[0].contiguous()
        gated = entry_values(entries)
        dh = sampled_dot(dy, down, starts, entries)
        du, dg = dh * gated, dh * projected
        dx = weighted_rows(starts, entries, [(du, up), (dg, gate)], x)
        columns = entry_columns(entries)
        d_down, d_up, d_gate = _weight_gradients(
            columns, tokens, (gated * projected, du, dg), (dy, x, x), gate.shape[0], ctx.hot
        )
        if heavy is not None:
            dense = _dense_backward(x[heavy], dy[heavy], FfnWeights(gate, up, down))
            dx[heavy] = dense[0]
            d_gate, d_up, d_down = (d_gate + dense[1], d_up + dense[2], d_down + dense[3])
        return dx, d_gate, d_up, d_down, None


def _weight_gradients(
    columns: Any, tokens: Any, values: tuple[Any, Any, Any], rows: tuple[Any, Any, Any], neurons: int, hot: int
) -> list[Any]:
    """``sum over a neuron's tokens of value * row`` for three pairs of values and rows: ``[F, d]`` each."""
    by_neuron = torch.sort(columns, stable=True)
    starts = torch.searchsorted(by_neuron.values, torch.arange(neurons + 1, device=columns.device), out_int32=True)
    counts = starts[1:] - starts[:-1]
    busiest = torch.topk(counts, hot).indices
    place = torch.full((neurons,), hot, dtype=torch.int64, device=columns.device)
    place[busiest] = torch.arange(hot, device=columns.device)
    sums = column_sums(starts, by_neuron.indices.to(torch.int32), tokens, values, rows, place == hot)
    slots = place[columns]
    for value, row, total in zip(values, rows, sums, strict=True):
        # Entries of other neurons land in column `hot`, left out of the product; rows stay 16-byte aligned.
        dense = torch.zeros(row.shape[0], hot + 8, dtype=row.dtype, device=row.device)
        dense.index_put_((tokens.long(), slots), value.to(row.dtype))
        total.index_copy_(0, busiest, dense[:, :hot].T @ row)
    return sums


def _dense_forward(x: Any, weights: FfnWeights) -> Any:
    return (torch.relu(x @ weights.gate.T) * (x @ weights.up.T)) @ weights.down


def _dense_backward(x: Any, dy: Any, weights: FfnWeights) -> tuple[Any, Any, Any, Any]:
    """``(dx, dWg, dWu, dWd)`` of rows computed densely."""
    gated, projected = torch.relu(x @ weights.gate.T), x @ weights.up.T
    dh = dy @ weights.down.T
    du, dg = dh * gated, dh * projected * (gated > 0)
    return du @ weights.up + dg @ weights.gate, dg.T @ x, du.T @ x, (gated * projected).T @ dy
