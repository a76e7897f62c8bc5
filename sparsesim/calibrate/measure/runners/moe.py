"""One rank's expert feed-forward: permute, grouped gate+up, activation, grouped down, combine; no router product.

The router kernel is handed ready logits and the identity as its weights, so that it does what is counted here (top-k,
softmax, counting sort) and next to no product. Every buffer set holds another draw of the expert load, all over the
same weights. With ep > 1 the rank holds the rows that the dispatch brought it, each with one local expert, and the
drawn rank is the one with most rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparsesim import laws
from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import BOUND_BF16, Candidate, UnsupportedError, spread_indices
from sparsesim.work import MoeFfn

_DRAWS, _DRAWS_MANY_TOKENS, _MANY_TOKENS = 8, 2, 1024
"""Draws of the load: fewer where many tokens make one draw like another."""
_CHECKED_TOKENS = 8
_DEFAULT_ZIPF = 1.0
"""Exponent of `zipf` where none is written, as the cost core reads it."""

Assignments = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Draw:
    x: Any
    logits: Any
    chosen: Assignments


def candidates(op: MoeFfn, bench: Bench) -> Sequence[Candidate]:
    """Our grouped kernels."""
    from sparsesim.kernels.moe import layer
    from sparsesim.kernels.moe.reference import MoEWeights

    _require_measurable(op)
    local, width, d_model = op.experts // op.ep, int(op.d_ff) // op.tp, int(op.d_model)
    take = bench.inputs.take
    identity = torch.eye(local, device=bench.device, dtype=torch.bfloat16)
    weights = MoEWeights(
        identity.new_empty(local, d_model), take(local, 2 * width, d_model), take(local, d_model, width)
    )
    count = _DRAWS if op.tokens < _MANY_TOKENS else _DRAWS_MANY_TOKENS
    draws = [_draw(op, bench, seed) for seed in range(count)]
    top_k = draws[0].chosen.shape[1]
    spaces = {n: layer.moe_workspace(n, weights, top_k, torch.bfloat16) for n in {len(d.chosen) for d in draws}}
    calls = [partial(_experts, d, identity, weights, spaces[len(d.chosen)]) for d in draws]
    first = draws[0]
    rows = spread_indices(len(first.chosen), _CHECKED_TOKENS)
    expected = torch.stack([_reference(first, weights, row) for row in rows])
    return [Candidate("triton", calls, lambda out: (out[rows], expected), BOUND_BF16)]


def popularity(load: str, experts: int) -> npt.NDArray[np.float64]:
    """Popularity of each expert under `uniform`, `zipf`, `zipf:EXPONENT` or `hot:FACTOR`.

    Raises:
        UnsupportedError: naming the loads.

    """
    kind, _, number = load.partition(":")
    if kind == "uniform":
        return laws.uniform_popularity(experts)
    if kind == "zipf":
        return laws.zipf_popularity(experts, float(number or _DEFAULT_ZIPF))
    if kind == "hot" and number:
        factor = float(number)
        return laws.hot_set_popularity(experts, 1, factor / (factor + experts - 1))
    raise UnsupportedError(f"moe_ffn: load {load!r}; measured are uniform, zipf, zipf:EXPONENT and hot:FACTOR")


def assignments(op: MoeFfn, seed: int) -> Assignments:
    """Local experts of the rows that the busiest rank holds, [rows, top_k], or [rows, 1] with ep > 1."""
    rng = np.random.default_rng(seed)
    chosen = laws.sample_assignments(popularity(op.load, op.experts), op.top_k, int(op.tokens), rng)
    if op.ep == 1:
        return chosen
    place = rng.permutation(op.experts)[chosen.ravel()]
    ranks, local = np.divmod(place, op.experts // op.ep)
    busiest = np.bincount(ranks, minlength=op.ep).argmax()
    return np.asarray(local[ranks == busiest][:, None])


def _require_measurable(op: MoeFfn) -> None:
    if op.dtype != "bf16" or op.weights or not op.gated or op.density != 1.0:
        raise UnsupportedError("moe_ffn: measured are gated bf16 experts, dense inside")
    if op.experts % op.ep or int(op.d_ff) % op.tp:
        raise UnsupportedError(
            f"moe_ffn: ep {op.ep} and tp {op.tp} must divide {op.experts} experts and d_ff {op.d_ff:g}"
        )


def _draw(op: MoeFfn, bench: Bench, seed: int) -> _Draw:
    chosen = assignments(op, seed)
    local, d_model = op.experts // op.ep, int(op.d_model)
    logits = torch.rand(len(chosen), local, device=bench.device) - 1.0
    logits.scatter_add_(
        1, torch.from_numpy(chosen).to(bench.device), torch.full(chosen.shape, 4.0, device=bench.device)
    )
    x = bench.inputs.take(len(chosen), d_model) * d_model**-0.5
    return _Draw(x, logits.to(torch.bfloat16), chosen)


def _experts(draw: _Draw, identity: Any, weights: Any, work: Any) -> Any:
    out = torch.empty_like(draw.x)
    return experts(draw.x, draw.logits, draw.chosen.shape[1], identity, weights, work, out)


def experts(x: Any, logits: Any, top_k: int, identity: Any, weights: Any, work: Any, out: Any) -> Any:
    """Expert feed-forward of x `[rows, d_model]` under ready logits `[rows, experts]`, into `out` of x's shape."""
    from sparsesim.kernels.moe.grouped import grouped_mm
    from sparsesim.kernels.moe.layer import combine
    from sparsesim.kernels.moe.route import route

    tiles, overlap = work.tiles, work.overlap
    routing = route(logits, identity, top_k, tiles.router, work.scratch, work.routing, True, overlap)
    hidden = grouped_mm(
        x, weights.gate_up, routing.offsets, tiles.gate_up,
        gated=True, row_token=routing.row_token, out=work.hidden, overlap=overlap,
    )  # fmt: skip
    expanded = grouped_mm(hidden, weights.down, routing.offsets, tiles.down, out=work.expanded, overlap=overlap)
    return combine(expanded, routing, tiles.combine_block_d, out, overlap)


def _reference(draw: _Draw, weights: Any, row: int) -> Any:
    """fp32 output of one row: its experts weighted by the softmax over the chosen logits."""
    chosen = draw.chosen[row].tolist()
    share = torch.softmax(draw.logits[row, chosen].float(), 0)
    out = torch.zeros(draw.x.shape[1], device=draw.x.device)
    for weight, expert in zip(share, chosen, strict=True):
        gate, up = (weights.gate_up[expert].float() @ draw.x[row].float()).chunk(2)
        out += weight * (weights.down[expert].float() @ (torch.nn.functional.silu(gate) * up))
    return out
