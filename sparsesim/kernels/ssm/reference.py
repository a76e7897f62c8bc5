"""Plain PyTorch recurrences of Mamba-2 (SSD) and Gated DeltaNet, one token after the other.

Mamba-2, per head h of group g, state S `[head_dim, d_state]`:

    d_t = softplus(dt_t + bias);  S_t = exp(d_t A) S_{t-1} + d_t x_t B_t^T;  y_t = S_t C_t + D x_t

Gated DeltaNet, state S `[v_dim, k_dim]`, decay g_t <= 0, write strength beta_t:

    S' = exp(g_t) S_{t-1};  S_t = S' + beta_t (v_t - S' k_t) k_t^T;  o_t = S_t q_t

fp64 inputs give an fp64 oracle; anything else is computed in fp32.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MambaInputs:
    """Inputs of `[batch, length]` tokens: x `[b, l, heads, head_dim]`, dt `[b, l, heads]` before its softplus,
    b and c `[b, l, groups, d_state]`, a `[heads]` negative, d and dt_bias `[heads]`.
    """

    x: torch.Tensor
    dt: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a: torch.Tensor
    d: torch.Tensor
    dt_bias: torch.Tensor

    def __post_init__(self) -> None:
        """Raise ValueError naming the first input whose shape disagrees with x or b."""
        batch, length, heads, _ = self.x.shape
        groups, d_state = self.b.shape[2:]
        if heads % groups:
            raise ValueError(f"b has {groups} groups, must divide the {heads} heads of x")
        shapes = {
            "dt": (batch, length, heads), "b": (batch, length, groups, d_state),
            "c": (batch, length, groups, d_state), "a": (heads,), "d": (heads,), "dt_bias": (heads,),
        }  # fmt: skip
        for name, shape in shapes.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name} has shape {found}; x and b ask for {shape}")


@dataclass(frozen=True)
class DeltaInputs:
    """Inputs of `[batch, length]` tokens: q and k `[b, l, heads, k_dim]`, v `[b, l, heads, v_dim]`, g and beta
    `[b, l, heads]`. The caller scales q and normalises k.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor

    def __post_init__(self) -> None:
        """Raise ValueError naming the first input whose shape disagrees with q."""
        batch, length, heads, _ = self.q.shape
        per_head = (batch, length, heads)
        for name, found, shape in (
            ("k", tuple(self.k.shape), tuple(self.q.shape)), ("v", tuple(self.v.shape[:3]), per_head),
            ("g", tuple(self.g.shape), per_head), ("beta", tuple(self.beta.shape), per_head),
        ):  # fmt: skip
            if found != shape:
                raise ValueError(f"{name} has shape {found}; q asks for {shape}")


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def mamba_reference(inputs: MambaInputs, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs `[b, l, heads, head_dim]` and last state from state `[b, heads, head_dim, d_state]`."""
    wide = _wide(inputs.x)
    heads, groups = inputs.x.shape[2], inputs.b.shape[2]
    x, a = inputs.x.to(wide), inputs.a.to(wide)
    dt = torch.nn.functional.softplus(inputs.dt.to(wide) + inputs.dt_bias.to(wide))
    b = inputs.b.to(wide).repeat_interleave(heads // groups, dim=2)
    c = inputs.c.to(wide).repeat_interleave(heads // groups, dim=2)
    s, out = state.to(wide), []
    for t in range(x.shape[1]):
        write = (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        s = torch.exp(dt[:, t] * a)[..., None, None] * s + write
        out.append((s * c[:, t, :, None, :]).sum(-1) + inputs.d.to(wide)[:, None] * x[:, t])
    return torch.stack(out, dim=1), s


def delta_reference(inputs: DeltaInputs, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs `[b, l, heads, v_dim]` and last state from state `[b, heads, v_dim, k_dim]`."""
    wide = _wide(inputs.q)
    s, out = state.to(wide), []
    q, k, v = inputs.q.to(wide), inputs.k.to(wide), inputs.v.to(wide)
    for t in range(q.shape[1]):
        s = torch.exp(inputs.g[:, t].to(wide))[..., None, None] * s
        error = v[:, t] - (s * k[:, t, :, None, :]).sum(-1)
        s = s + (inputs.beta[:, t].to(wide)[..., None] * error)[..., None] * k[:, t, :, None, :]
        out.append((s * q[:, t, :, None, :]).sum(-1))
    return torch.stack(out, dim=1), s
