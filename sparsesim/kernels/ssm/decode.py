# mypy: disable-error-code="no-untyped-def"
"""One decode token of Mamba-2 or Gated DeltaNet: read the state, update it, write it, and its product.

Both recurrences are `S = decay S + u k^T; y = S q` with a different column u, so they share one kernel: a
program owns `block_p` rows of one head's state at full width, hence every sum over the state's columns stays
inside the program and the state moves once each way, which is all the time there is.
"""

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.ssm.config import DECODE_TILE, DecodeTile
from sparsesim.kernels.ssm.reference import DeltaInputs, MambaInputs

_ACTIVATIONS = (torch.bfloat16, torch.float16, torch.float32)
_STATES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) without overflow."""
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def decode_kernel(
    state_ptr, x_ptr, gate_ptr, strength_ptr, k_ptr, q_ptr, bias_ptr, skip_ptr, out_ptr,
    heads, heads_per_group, rows, columns,
    DELTA: tl.constexpr, BLOCK_P: tl.constexpr, COLUMNS_PAD: tl.constexpr,
):  # fmt: skip
    """Grid (batch * heads, row blocks).

    Mamba-2: x, gate = dt, strength = A, k = B, q = C. DELTA: x = v, gate = g, strength = beta, k, q.
    """
    lane = tl.program_id(0)
    head = lane % heads
    group = (lane // heads) * (heads // heads_per_group) + head // heads_per_group
    row = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    column = tl.arange(0, COLUMNS_PAD)
    row_in, column_in = row < rows, column < columns
    cell = lane.to(tl.int64) * rows * columns + row[:, None] * columns + column[None, :]
    inside = row_in[:, None] & column_in[None, :]
    state = tl.load(state_ptr + cell, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + group * columns + column, mask=column_in, other=0.0).to(tl.float32)
    q = tl.load(q_ptr + group * columns + column, mask=column_in, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + lane * rows + row, mask=row_in, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + lane).to(tl.float32)
    if DELTA:
        state = state * tl.exp(gate)
        update = tl.load(strength_ptr + lane).to(tl.float32) * (x - tl.sum(state * k[None, :], axis=1))
    else:
        dt = softplus(gate + tl.load(bias_ptr + head).to(tl.float32))
        state = state * tl.exp(dt * tl.load(strength_ptr + head).to(tl.float32))
        update = dt * x
    state += update[:, None] * k[None, :]
    y = tl.sum(state * q[None, :], axis=1)
    if not DELTA:
        y += tl.load(skip_ptr + head).to(tl.float32) * x
    tl.store(state_ptr + cell, state.to(state_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + lane * rows + row, y.to(out_ptr.dtype.element_ty), mask=row_in)


def _grid(lanes: int, rows: int, tile: DecodeTile) -> tuple[int, int]:
    return lanes, triton.cdiv(rows, tile.block_p)


def mamba_decode(
    inputs: MambaInputs, state: torch.Tensor, *, tile: DecodeTile = DECODE_TILE, out: torch.Tensor | None = None
) -> torch.Tensor:
    """One Mamba-2 token: `[batch, 1, heads, head_dim]`; state `[batch, heads, head_dim, d_state]` is updated in
    place and may be fp32, bf16 or fp16. Raises KernelRequirementError where a shape does not fit.
    """
    batch, length, heads, head_dim = inputs.x.shape
    groups, d_state = inputs.b.shape[2:]
    require_gpu("mamba_decode")
    require_tensor("mamba_decode", "x", inputs.x, (None, 1, None, None), _ACTIVATIONS)
    for name in ("dt", "b", "c"):
        tensor = getattr(inputs, name)
        require_tensor("mamba_decode", name, tensor, tuple(tensor.shape), _ACTIVATIONS)
    require_tensor("mamba_decode", "state", state, (batch, heads, head_dim, d_state), _STATES)
    out = torch.empty_like(inputs.x) if out is None else out
    decode_kernel[_grid(batch * heads * length, head_dim, tile)](
        state, inputs.x, inputs.dt, inputs.a, inputs.b, inputs.c, inputs.dt_bias, inputs.d, out,
        heads, heads // groups, head_dim, d_state,
        DELTA=False, BLOCK_P=tile.block_p, COLUMNS_PAD=triton.next_power_of_2(d_state), num_warps=tile.num_warps,
    )  # fmt: skip
    return out


def delta_decode(
    inputs: DeltaInputs, state: torch.Tensor, *, tile: DecodeTile = DECODE_TILE, out: torch.Tensor | None = None
) -> torch.Tensor:
    """One Gated DeltaNet token: `[batch, 1, heads, v_dim]`; state `[batch, heads, v_dim, k_dim]` is updated in
    place. Raises KernelRequirementError where a shape does not fit.
    """
    batch, _, heads, k_dim = inputs.q.shape
    v_dim = inputs.v.shape[3]
    require_gpu("delta_decode")
    require_tensor("delta_decode", "v", inputs.v, (batch, 1, heads, v_dim), _ACTIVATIONS)
    for name in ("q", "k", "g", "beta"):
        tensor = getattr(inputs, name)
        require_tensor("delta_decode", name, tensor, tuple(tensor.shape), _ACTIVATIONS)
    require_tensor("delta_decode", "state", state, (batch, heads, v_dim, k_dim), _STATES)
    out = torch.empty_like(inputs.v) if out is None else out
    decode_kernel[_grid(batch * heads, v_dim, tile)](
        state, inputs.v, inputs.g, inputs.beta, inputs.k, inputs.q, inputs.g, inputs.g, out,
        heads, 1, v_dim, k_dim,
        DELTA=True, BLOCK_P=tile.block_p, COLUMNS_PAD=triton.next_power_of_2(k_dim), num_warps=tile.num_warps,
    )  # fmt: skip
    return out
