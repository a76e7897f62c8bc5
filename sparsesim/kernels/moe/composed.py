"""Baselines composed of PyTorch operators: the same layer with `torch._grouped_mm`, and capacity padding.

`composed_layer` uses the fewest launches that PyTorch's operators allow: one sort gives the permutation, one
`searchsorted` the experts' end rows. It runs inside a CUDA graph. `capacity_layer` gives every expert the
same number of rows, drops what does not fit and multiplies padding: the classic form, with static shapes.
"""

import math

import torch

from sparsesim.kernels.moe.reference import MoEWeights, gated_reference


def composed_route(
    x: torch.Tensor, router: torch.Tensor, top_k: int, renormalise: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts and fp32 weights `[tokens, top_k]` by matmul, softmax, topk and a division."""
    probability = torch.softmax(x @ router.T, dim=-1, dtype=torch.float32)
    weight, expert = torch.topk(probability, top_k, dim=-1)
    return expert, weight / weight.sum(dim=-1, keepdim=True) if renormalise else weight


def grouped_mm_torch(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """PyTorch's grouped GEMM of sorted rows x `[rows, k]` with weight `[experts, n, k]`; ends `[experts]` int32."""
    return torch._grouped_mm(x, weight.transpose(1, 2), offs=ends)


def composed_layer(x: torch.Tensor, weights: MoEWeights, top_k: int, renormalise: bool = True) -> torch.Tensor:
    """The layer of `moe_layer` from PyTorch operators: `[tokens, d_model]`."""
    expert, weight = composed_route(x, weights.router, top_k, renormalise)
    by_expert, order = torch.sort(expert.flatten(), stable=True)
    experts = torch.arange(weights.experts, device=x.device)
    ends = torch.searchsorted(by_expert, experts, right=True, out_int32=True)
    token = order // top_k
    hidden = gated_reference(grouped_mm_torch(x[token], weights.gate_up, ends))
    expanded = grouped_mm_torch(hidden, weights.down, ends)
    scaled = expanded * weight.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, token, scaled)


def capacity_layer(
    x: torch.Tensor, weights: MoEWeights, top_k: int, capacity_factor: float, renormalise: bool = True
) -> torch.Tensor:
    """The layer with ceil(capacity_factor * tokens * top_k / experts) rows per expert; later tokens are dropped.

    Raises ValueError for a capacity factor that is not positive.
    """
    if capacity_factor <= 0.0:
        raise ValueError(f"capacity_factor is {capacity_factor}, must be positive")
    tokens, experts = x.shape[0], weights.experts
    capacity = math.ceil(capacity_factor * tokens * top_k / experts)
    expert, weight = composed_route(x, weights.router, top_k, renormalise)
    by_expert, order = torch.sort(expert.flatten(), stable=True)
    first = torch.searchsorted(by_expert, torch.arange(experts, device=x.device))
    place = torch.arange(tokens * top_k, device=x.device) - first[by_expert]
    spare = experts * capacity
    cell = torch.where(place < capacity, by_expert * capacity + place, spare)
    token = order // top_k
    padded = x.new_zeros((spare + 1, weights.d_model)).index_copy_(0, cell, x[token])
    hidden = gated_reference(torch.bmm(padded[:spare].view(experts, capacity, -1), weights.gate_up.transpose(1, 2)))
    expanded = torch.bmm(hidden, weights.down.transpose(1, 2)).view(spare, -1)
    kept = torch.cat([expanded, expanded.new_zeros((1, weights.d_model))])[cell]
    scaled = kept * weight.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, token, scaled)
