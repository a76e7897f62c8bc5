"""Tensors of one rank: the layer's weights by slot, and the buffers of one draw, from numbers any rank can remake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.calibrate.measure.expert_parallel.exchange import Exchange, Ints, draw
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer

_CHOSEN_ABOVE = 4.0
"""Logits of chosen experts lie in [3, 4), the others in [-1, 0)."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """gate_up `[local, 2 d_ff, d_model]`, gate rows first, and down `[local, d_model, d_ff]`; bf16, N(0, 1)."""

    gate_up: Any
    down: Any


@dataclass(frozen=True, slots=True, eq=False)
class Buffers:
    """One draw on one rank; rows are sorted by destination (`send`, `returned`) or by sender (the others).

    x, out `[tokens, d_model]`; logits `[tokens, experts]`; send, returned `[tokens * top_k, d_model]`;
    received, expert_out `[rows, d_model]`; received_logits `[rows, local]`; splits: rows by rank.
    """

    top_k: int
    x: Any
    logits: Any
    send: Any
    received: Any
    received_logits: Any
    expert_out: Any
    returned: Any
    out: Any
    send_splits: list[int]
    receive_splits: list[int]

    def poison(self) -> None:
        """NaN wherever a stage writes."""
        for buffer in (self.send, self.received, self.expert_out, self.returned, self.out):
            buffer.fill_(float("nan"))


def slot_weights(layer: ExpertLayer, slot: int, device: Any) -> Weights:
    """One expert's weights, the same on whichever rank asks: gate_up `[2 d_ff, d_model]`, down `[d_model, d_ff]`."""
    empty = torch.empty(0, device=device, dtype=torch.bfloat16)
    gate_up, down = empty.new_empty(2 * layer.d_ff, layer.d_model), empty.new_empty(layer.d_model, layer.d_ff)
    return _fill(Weights(gate_up, down), slot)


def rank_weights(layer: ExpertLayer, rank: int, device: Any) -> Weights:
    """Of all slots of a rank."""
    empty = torch.empty(0, device=device, dtype=torch.bfloat16)
    gate_up = empty.new_empty(layer.local, 2 * layer.d_ff, layer.d_model)
    down = empty.new_empty(layer.local, layer.d_model, layer.d_ff)
    for i in range(layer.local):
        _fill(Weights(gate_up[i], down[i]), rank * layer.local + i)
    return Weights(gate_up, down)


def _fill(weights: Weights, slot: int) -> Weights:
    generator = torch.Generator(device=weights.down.device).manual_seed(1_000_003 + slot)
    weights.gate_up.normal_(generator=generator)
    weights.down.normal_(generator=generator)
    return weights


def buffers(layer: ExpertLayer, rank: int, seed: int, device: Any) -> Buffers:
    """Everything that one call of the layer reads and writes."""
    exchange = draw(layer, seed)
    generator = torch.Generator(device=device).manual_seed(seed * layer.ranks + rank)
    sent, received = exchange.counts[rank].tolist(), exchange.counts[:, rank].tolist()
    x = torch.empty(layer.tokens, layer.d_model, device=device, dtype=torch.bfloat16).normal_(generator=generator)
    x *= layer.d_model**-0.5
    going, coming = (x.new_empty(rows, layer.d_model) for rows in (sum(sent), sum(received)))
    return Buffers(
        layer.top_k,
        x,
        _logits(exchange.slots[rank], layer.experts, generator, device),
        going,
        coming,
        _logits(exchange.received(rank)[:, None], layer.local, generator, device),
        torch.empty_like(coming),
        torch.empty_like(going),
        torch.empty_like(x),
        sent,
        received,
    )


def busiest_rows(layer: ExpertLayer, seed: int) -> int:
    """Rows that rank 0 gets, which is the busiest."""
    exchange: Exchange = draw(layer, seed)
    return int(exchange.counts[:, 0].sum())


def _logits(chosen: Ints, experts: int, generator: torch.Generator, device: Any) -> Any:
    """Router logits `[rows, experts]` whose largest are those of the chosen ones."""
    logits = torch.rand(len(chosen), experts, generator=generator, device=device) - 1.0
    index = torch.from_numpy(chosen).to(device)
    logits.scatter_add_(1, index, torch.full(index.shape, _CHOSEN_ABOVE, device=device))
    return logits.to(torch.bfloat16)
