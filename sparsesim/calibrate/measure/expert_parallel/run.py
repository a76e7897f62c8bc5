"""The layer on one rank of a process group: its calls by stage, and its result against a single-process reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from sparsesim.calibrate.measure.expert_parallel.buffers import Buffers, Weights, buffers, slot_weights
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer
from sparsesim.calibrate.measure.expert_parallel.stages import HostStages, Stages, TritonStages
from sparsesim.calibrate.measure.plan import spread_indices

_DRAWS, _DRAWS_MANY_TOKENS, _MANY_TOKENS = 8, 2, 1024
"""Draws of the load: fewer where many tokens make one draw like another."""
_CHECKED_TOKENS = 8

STAGES = ("moe_dispatch", "moe_ffn", "moe_combine")
"""In the order they run, by the op that records each."""


def draws(layer: ExpertLayer) -> int:
    """Buffer sets: each holds another draw of the load."""
    return _DRAWS if layer.tokens < _MANY_TOKENS else _DRAWS_MANY_TOKENS


class RankLayer:
    """A layer's draws on this rank. Split sizes are known ahead, so that every stage can be captured in a graph."""

    def __init__(self, layer: ExpertLayer, rank: int, weights: Weights) -> None:
        self.layer, self._rank = layer, rank
        device = weights.down.device
        kind: Callable[[Buffers, Weights], Stages] = HostStages if device.type == "cpu" else TritonStages
        self._sets = [buffers(layer, rank, seed, device) for seed in range(draws(layer))]
        self._stages = [kind(own, weights) for own in self._sets]

    def calls(self, name: str) -> Sequence[Callable[[], Any]]:
        """One call a draw of a stage of `STAGES`, of its local part (`permute`, `weigh`), or of the whole `layer`."""
        return [self._call(name, own, stages) for own, stages in zip(self._sets, self._stages, strict=True)]

    def check(self) -> tuple[Any, Any]:
        """(result, fp32 reference) of a spread of tokens, from one call on poisoned buffers; NaN where any is left."""
        own = self._sets[0]
        own.poison()
        self.calls("layer")[0]()
        rows = spread_indices(self.layer.tokens, _CHECKED_TOKENS)
        written = all(
            bool(torch.isfinite(part).all()) for part in (own.received, own.expert_out, own.returned, own.out)
        )
        out = own.out[rows] if written else torch.full_like(own.out[rows], float("nan"))
        return out, torch.stack([reference(self.layer, own, row) for row in rows])

    def _call(self, name: str, b: Buffers, stages: Stages) -> Callable[[], Any]:
        def dispatch() -> None:
            stages.permute()
            dist.all_to_all_single(b.received, b.send, b.receive_splits, b.send_splits)

        def combine() -> None:
            dist.all_to_all_single(b.returned, b.expert_out, b.send_splits, b.receive_splits)
            stages.weigh()

        def layer() -> None:
            dispatch()
            stages.experts()
            combine()

        known: dict[str, Callable[[], Any]] = {
            "moe_dispatch": dispatch,
            "moe_ffn": stages.experts,
            "moe_combine": combine,
            "permute": stages.permute,
            "weigh": stages.weigh,
            "layer": layer,
        }
        return known[name]


def reference(layer: ExpertLayer, b: Buffers, row: int) -> Any:
    """One token's output in fp32, `[d_model]`: its experts' weights are made here, wherever they really lie."""
    best, chosen = b.logits[row].float().topk(layer.top_k)
    out = torch.zeros(layer.d_model, device=b.x.device)
    for share, slot in zip(torch.softmax(best, 0), chosen.tolist(), strict=True):
        weights = slot_weights(layer, slot, b.x.device)
        gate, up = (weights.gate_up.float() @ b.x[row].float()).chunk(2)
        out += share * (weights.down.float() @ (torch.nn.functional.silu(gate) * up))
    return out
