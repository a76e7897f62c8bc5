"""Plain PyTorch mixture-of-experts layer: the definition that the kernels are tested against.

    logits = x W_r^T;  p = softmax(logits);  S_t = the top_k largest p of token t
    w[t, e] = p[t, e] / sum(p[t, S_t])            (renormalised)  or p[t, e]
    y[t] = sum over e in S_t of w[t, e] * W_down[e] (silu(W_gate[e] x_t) * (W_up[e] x_t))

Runs on any device and in any floating-point dtype; fp64 on the CPU is the oracle of the tests.
"""

import itertools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MoEWeights:
    """Weights of one layer; every matrix is stored with its input dimension contiguous.

    router: `[experts, d_model]`; gate_up: `[experts, 2 * d_expert, d_model]`, gate rows before up rows;
    down: `[experts, d_model, d_expert]`.
    """

    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor

    def __post_init__(self) -> None:
        """Raise ValueError naming the first matrix whose shape disagrees with the others."""
        if self.router.ndim != 2:
            raise ValueError(f"router has shape {tuple(self.router.shape)}; expected [experts, d_model]")
        experts, d_model = self.router.shape
        if self.gate_up.ndim != 3 or self.gate_up.shape[1] % 2:
            raise ValueError(
                f"gate_up has shape {tuple(self.gate_up.shape)}; expected [experts, 2 * d_expert, d_model]"
            )
        d_expert = self.gate_up.shape[1] // 2
        for name, tensor, shape in (
            ("gate_up", self.gate_up, (experts, 2 * d_expert, d_model)),
            ("down", self.down, (experts, d_model, d_expert)),
        ):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")

    @property
    def experts(self) -> int:
        """Number of experts."""
        return int(self.router.shape[0])

    @property
    def d_model(self) -> int:
        """Width of a token."""
        return int(self.router.shape[1])

    @property
    def d_expert(self) -> int:
        """Hidden width of one expert."""
        return int(self.down.shape[2])


def route_reference(
    x: torch.Tensor, router: torch.Tensor, top_k: int, renormalise: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts and weights of every token, experts in ascending order: (`[tokens, top_k]` int64, same in float).

    Computed in fp32 or, for fp64 inputs, fp64. Raises ValueError for a top_k the router does not have.
    """
    if not 1 <= top_k <= router.shape[0]:
        raise ValueError(f"top_k is {top_k}; the router has {router.shape[0]} experts, so 1 to {router.shape[0]}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    probabilities = torch.softmax(x.to(wide) @ router.to(wide).T, dim=-1)
    expert = torch.topk(probabilities, top_k, dim=-1).indices.sort(dim=-1).values
    weight = probabilities.gather(1, expert)
    return expert, weight / weight.sum(dim=-1, keepdim=True) if renormalise else weight


def grouped_mm_reference(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Rows offsets[e]:offsets[e+1] of x `[rows, k]` times weight[e]^T `[n, k]`: `[rows, n]` in x's dtype."""
    bounds = offsets.tolist()
    blocks = [x[start:stop] @ weight[e].to(x.dtype).T for e, (start, stop) in enumerate(itertools.pairwise(bounds))]
    return torch.cat(blocks)


def gated_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of `[rows, 2 * d_expert]` with the gate columns first: `[rows, d_expert]`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def moe_reference(x: torch.Tensor, weights: MoEWeights, top_k: int, renormalise: bool = True) -> torch.Tensor:
    """The whole layer, token by expert, in fp32 (fp64 for fp64 x): `[tokens, d_model]`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    expert, weight = route_reference(x, weights.router, top_k, renormalise)
    out = torch.zeros(x.shape, dtype=wide, device=x.device)
    for e in expert.unique().tolist():
        token, slot = torch.nonzero(expert == e, as_tuple=True)
        hidden = gated_reference(x[token].to(wide) @ weights.gate_up[e].to(wide).T)
        out.index_add_(0, token, (hidden @ weights.down[e].to(wide).T) * weight[token, slot, None])
    return out
