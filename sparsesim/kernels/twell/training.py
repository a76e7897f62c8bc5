"""Training of a sparse gated FFN: forward and backward over the non-zeros, with a dense backup for heavy rows.

With ``g = relu(x Wg^T)``, ``u = x Wu^T``, ``h = g u``, ``y = h Wd`` and the gradient ``dy``::

    dh = dy Wd^T     du = dh g     dg = dh u  (where g > 0)
    dx = du Wu + dg Wg     dWd = h^T dy     dWu = du^T x     dWg = dg^T x

Each of these is needed only where ``g > 0``. The first ``hot`` neurons (the most frequent ones, see
``FfnWeights.by_frequency``: on a Zipf pattern 256 of 5632 hold more than half the non-zeros) go through dense
products. For the others the products over rows of a token gather weight rows, and those over the tokens of a neuron
gather rows of x and dy through lists sorted by neuron.

Saved for the backward are x, gate and up of the hot neurons, and one word, one row number and one float per other
non-zero; a dense layer saves three ``[M, F]`` matrices. Rows with more than ``capacity`` non-zeros outside the hot
neurons, or with an overflowing tile, are computed densely and recomputed in the backward. Their number, and that of
the non-zeros, is read by the host once per forward: it sizes what is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.twell.format import TwellFormat, entry_values
from sparsesim.kernels.twell.gate import pack_gate
from sparsesim.kernels.twell.launch import GateLaunch
from sparsesim.kernels.twell.sums import backward_rows, column_sums, csr_from_words, forward_rows, row_counts
from sparsesim.kernels.twell.weights import FfnWeights


@dataclass(frozen=True)
class TrainingSettings:
    """``capacity``: most non-zeros of a sparse row; ``hot``: leading neurons kept dense (none where F is no larger).

    On an H100 at M 16384, nnz 29, Zipf: 256 hot neurons 2.70 to 2.94 ms, 512 2.49, 768 2.53 (dense 5.11).
    """

    capacity: int = 128
    hot: int = 512
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
        """The layer's output `[M, d]`; what the backward reads is kept by row or, of heavy rows, computed again."""
        weights = FfnWeights(gate, up, down)
        hot = settings.hot if settings.hot < weights.neurons else 0
        packed = pack_gate(x, weights, settings.form, settings.gate, hot, apart=True)
        counts, is_heavy = row_counts(packed.words, settings.form, settings.capacity)
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        nonzeros, heavies = torch.stack([starts[-1], is_heavy.sum()]).tolist()
        entries, tokens = csr_from_words(packed.words, counts, starts, int(nonzeros), settings.form)
        gated, taken = packed.gated, packed.projected
        del packed
        heavy = torch.nonzero(is_heavy).flatten() if heavies else None
        if hot and heavy is not None:
            gated[heavy] = 0.0
        out = (gated * taken) @ down[:hot] if hot else torch.zeros_like(x)
        projected = forward_rows(x, up, down, starts, entries, out)
        if heavy is not None:
            out[heavy] = _dense_forward(x[heavy], weights)
        ctx.save_for_backward(x, gate, up, down, starts, entries, tokens, projected, heavy, gated, taken)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of x, gate, up and down."""
        x, gate, up, down, starts, entries, tokens, projected, heavy, gated, taken = ctx.saved_tensors
        dy = grads[0].contiguous()
        hot = 0 if gated is None else gated.shape[1]
        pair = _hot_gradients(dy, down[:hot], gated, taken) if hot else None
        dx = torch.zeros_like(x) if pair is None else pair @ torch.cat([up[:hot], gate[:hot]])
        du, dg = backward_rows(dy, gate, up, down, starts, entries, projected, dx)
        hidden = entry_values(entries) * projected
        order, ends = _by_neuron(entries, gate.shape[0])
        d_down, d_up, d_gate = column_sums(ends, order, tokens, (hidden, du, dg), (dy, x, x))
        if pair is not None:
            torch.mm((gated * taken).T, dy, out=d_down[:hot])
            torch.mm(pair[:, :hot].T, x, out=d_up[:hot])
            torch.mm(pair[:, hot:].T, x, out=d_gate[:hot])
        if heavy is not None:
            dense = _dense_backward(x[heavy], dy[heavy], FfnWeights(gate, up, down))
            dx[heavy] = dense[0]
            d_gate, d_up, d_down = (d_gate + dense[1], d_up + dense[2], d_down + dense[3])
        return dx, d_gate, d_up, d_down, None


def _hot_gradients(dy: Any, down: Any, gated: Any, projected: Any) -> Any:
    """``(du | dg)`` of the hot neurons, ``[M, 2 hot]``."""
    dh = dy @ down.T
    pair = torch.empty(len(dy), 2 * dh.shape[1], dtype=dh.dtype, device=dh.device)
    torch.mul(dh, gated, out=pair[:, : dh.shape[1]])
    torch.mul(dh, projected * (gated > 0), out=pair[:, dh.shape[1] :])
    return pair


def _by_neuron(entries: Any, neurons: int) -> tuple[Any, Any]:
    """``(order, starts)`` int32: entries listed by neuron, those of one neuron by token; ``starts [F + 1]``."""
    columns, order = torch.sort(entries & 0xFFFF, stable=True)
    bounds = torch.arange(neurons + 1, device=entries.device, dtype=columns.dtype)
    return order.to(torch.int32), torch.searchsorted(columns, bounds, out_int32=True)


def _dense_forward(x: Any, weights: FfnWeights) -> Any:
    return (torch.relu(x @ weights.gate.T) * (x @ weights.up.T)) @ weights.down


def _dense_backward(x: Any, dy: Any, weights: FfnWeights) -> tuple[Any, Any, Any, Any]:
    """``(dx, dWg, dWu, dWd)`` of rows computed densely."""
    gated, projected = torch.relu(x @ weights.gate.T), x @ weights.up.T
    dh = dy @ weights.down.T
    du, dg = dh * gated, dh * projected * (gated > 0)
    return du @ weights.up + dg @ weights.gate, dg.T @ x, du.T @ x, (gated * projected).T @ dy
