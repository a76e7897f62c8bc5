"""A layer's local work on one rank: sort and permute, experts, weighted sum; by our kernels, or plainly on a host."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from sparsesim.calibrate.measure.expert_parallel.buffers import Buffers, Weights


class Stages(Protocol):
    """The local parts of one draw's call, each from one buffer into the next."""

    def permute(self) -> Any:
        """Choose experts by the logits, sort the rows by expert, copy x into `send`."""

    def experts(self) -> Any:
        """Sort the received rows by local expert, multiply, and put the results back in order into `expert_out`."""

    def weigh(self) -> Any:
        """Sum each token's returned rows with the router's weights into `out`."""


class TritonStages:
    """By the kernels of kernels.moe, without a host step; workspaces are made once."""

    def __init__(self, b: Buffers, weights: Weights) -> None:
        from sparsesim.kernels.moe.config import layer_tiles
        from sparsesim.kernels.moe.layer import moe_workspace
        from sparsesim.kernels.moe.reference import MoEWeights
        from sparsesim.kernels.moe.route import empty_routing, router_scratch

        tokens, experts = b.logits.shape
        local, d_model, d_ff = weights.down.shape
        self._b = b
        self._tiles = layer_tiles(tokens, b.top_k, experts, d_ff)
        self._identity = torch.eye(experts, device=b.x.device, dtype=b.x.dtype)
        self._local_identity = torch.eye(local, device=b.x.device, dtype=b.x.dtype)
        self._scratch = router_scratch(tokens, experts, self._tiles.router, b.x.device)
        self._routing = empty_routing(tokens, experts, b.top_k, b.x.device)
        self._weights = MoEWeights(b.x.new_empty(local, d_model), weights.gate_up, weights.down)
        rows = len(b.received)
        self._work = moe_workspace(rows, self._weights, 1, b.x.dtype) if rows else None

    def permute(self) -> Any:
        """Routing kernel on ready logits, then one copy of every row."""
        from sparsesim.kernels.moe.permute import permute
        from sparsesim.kernels.moe.route import route

        b = self._b
        route(b.logits, self._identity, b.top_k, self._tiles.router, self._scratch, self._routing)
        return permute(b.x, self._routing.row_token, b.send)

    def experts(self) -> Any:
        """As the `moe_ffn` suite does on one rank."""
        from sparsesim.calibrate.measure.runners.moe import experts

        b = self._b
        if self._work is None:
            return b.expert_out
        return experts(b.received, b.received_logits, 1, self._local_identity, self._weights, self._work, b.expert_out)

    def weigh(self) -> Any:
        """Combine kernel over the order that `permute` left."""
        from sparsesim.kernels.moe.layer import combine

        return combine(self._b.returned, self._routing, self._tiles.combine_block_d, self._b.out)


class HostStages:
    """The same by plain PyTorch, for machines without a GPU."""

    def __init__(self, b: Buffers, weights: Weights) -> None:
        self._b, self._weights = b, weights
        self._order, self._share = torch.empty(0, dtype=torch.int64), torch.empty(0)

    def permute(self) -> Any:
        """Top-k, softmax over the chosen, stable sort."""
        b = self._b
        best, chosen = b.logits.float().topk(b.top_k, dim=1)
        self._share = torch.softmax(best, dim=1).flatten()
        self._order = torch.sort(chosen.flatten(), stable=True).indices
        return b.send.copy_(b.x[self._order // b.top_k])

    def experts(self) -> Any:
        """Expert by expert, in fp32."""
        b = self._b
        mine = b.received_logits.argmax(dim=1)
        for expert in mine.unique().tolist():
            rows = mine == expert
            gate, up = (b.received[rows].float() @ self._weights.gate_up[expert].float().T).chunk(2, dim=1)
            hidden = torch.nn.functional.silu(gate) * up
            b.expert_out[rows] = (hidden @ self._weights.down[expert].float().T).to(b.x.dtype)
        return b.expert_out

    def weigh(self) -> Any:
        """In fp32."""
        b = self._b
        weighted = b.returned.float() * self._share[self._order, None]
        total = torch.zeros(b.out.shape).index_add_(0, self._order // b.top_k, weighted)
        return b.out.copy_(total)
