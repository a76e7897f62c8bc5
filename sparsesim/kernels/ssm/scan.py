# mypy: disable-error-code="no-untyped-def"
"""Mamba-2 (SSD) chunked scan in one pass over x: the state never leaves the program that owns its head.

With a_t = d_t A and cs its running sum inside a chunk of Q tokens, and H the state before the chunk:

    y_i = exp(cs_i) C_i H + sum over j <= i of exp(cs_i - cs_j) (C_i . B_j) d_j x_j + D x_i
    H  <- exp(cs_Q) H + sum over j of exp(cs_Q - cs_j) d_j B_j x_j^T

One program walks the chunks of one (batch, head) in order. x and y move once; B and C are read by every head
of a group and come from the L2. Compared with the usual five kernels (chunk states and their prefix in device
memory) nothing but inputs and outputs is moved; the price is that batch * heads programs must fill the GPU.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sparsesim.kernels.common.requirements import require_gpu, require_tensor
from sparsesim.kernels.ssm.config import SCAN_TILE, ScanTile
from sparsesim.kernels.ssm.decode import softplus
from sparsesim.kernels.ssm.reference import MambaInputs

_LOG2_E = tl.constexpr(1.4426950408889634)
_TINY = tl.constexpr(2.0**-126)  # smallest normal fp32: a step that underflows writes nothing visible
_ACTIVATIONS = (torch.bfloat16, torch.float16)


@triton.jit
def decay_kernel(
    dt_ptr, a_ptr, bias_ptr, through_ptr, source_ptr, length, padded, heads,
    CHUNK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Through = cs / ln 2 and source = (cs - ln d) / ln 2, fp32 `[batch, heads, padded]`; grid (chunks, heads, b)."""
    start, batch = tl.program_id(0) * CHUNK, tl.program_id(2)
    t = start + tl.arange(0, CHUNK)
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    h_in, t_in = h < heads, t < length
    cells = (batch.to(tl.int64) * length + t)[:, None] * heads + h[None, :]
    dt = tl.load(dt_ptr + cells, mask=t_in[:, None] & h_in[None, :], other=0.0).to(tl.float32)
    a = tl.load(a_ptr + h, mask=h_in, other=0.0).to(tl.float32) * _LOG2_E
    bias = tl.load(bias_ptr + h, mask=h_in, other=0.0).to(tl.float32)
    dt = tl.where(t_in[:, None], softplus(dt + bias[None, :]), 0.0)
    through = tl.cumsum(dt * a[None, :], 0)
    out = (batch.to(tl.int64) * heads + h)[:, None] * padded + t[None, :]
    out_in = tl.broadcast_to(h_in[:, None], (HEADS, CHUNK))
    tl.store(through_ptr + out, tl.trans(through), mask=out_in)
    source = tl.where(t_in[:, None], through - tl.log2(tl.maximum(dt, _TINY)), float("inf"))
    tl.store(source_ptr + out, tl.trans(source), mask=out_in)


@triton.jit
def _load(source, row0, t, t_in, part, parts, width, column, column_in, EVEN: tl.constexpr):
    """Rows of one head's or group's columns, out of `[tokens, parts, width]`."""
    if EVEN:
        tile = source.load([row0, part * width])
    else:
        cells = (t * parts + part)[:, None] * width + column[None, :]
        tile = tl.load(source + cells, mask=t_in[:, None] & column_in[None, :], other=0.0)
    return tile


@triton.jit
def scan_kernel(
    x, through_ptr, source_ptr, b, c, skip_ptr, first, out, last,
    length, padded, heads, groups, head_dim, d_state,
    CHUNK: tl.constexpr, P_PAD: tl.constexpr, N_PAD: tl.constexpr, STAGES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Grid (heads, batch): neighbouring programs share a sequence's B and C in the L2.

    x, b, c, out, first and last (state) are tensor descriptors with EVEN (whole chunks, unpadded tiles) and
    pointers without.
    """
    head, batch = tl.program_id(0), tl.program_id(1)
    group = head // (heads // groups)
    i, p, n = tl.arange(0, CHUNK), tl.arange(0, P_PAD), tl.arange(0, N_PAD)
    p_in, n_in = p < head_dim, n < d_state
    lane = (batch * heads + head).to(tl.int64)
    if EVEN:
        state = tl.trans(first.load([(batch * heads + head) * head_dim, 0]))
    else:
        cell = lane * head_dim * d_state + p[None, :] * d_state + n[:, None]
        state = tl.load(first + cell, mask=p_in[None, :] & n_in[:, None], other=0.0)
    skip = tl.load(skip_ptr + head).to(tl.float32)
    dtype = x.dtype if EVEN else x.dtype.element_ty
    token0 = batch.to(tl.int64) * length
    for start in tl.range(0, length, CHUNK, num_stages=STAGES):
        t_in = start + i < length
        t = token0 + start + i
        row0 = batch * length + start
        through = tl.load(through_ptr + lane * padded + start + i)
        source = tl.load(source_ptr + lane * padded + start + i)
        whole = tl.load(through_ptr + lane * padded + start + CHUNK - 1)
        c_tile = _load(c, row0, t, t_in, group, groups, d_state, n, n_in, EVEN)
        b_tile = _load(b, row0, t, t_in, group, groups, d_state, n, n_in, EVEN)
        x_tile = _load(x, row0, t, t_in, head, heads, head_dim, p, p_in, EVEN)
        scores = tl.dot(c_tile, tl.trans(b_tile))
        weight = tl.exp2(tl.where(i[:, None] >= i[None, :], through[:, None] - source[None, :], float("-inf")))
        y = tl.dot(c_tile, state.to(dtype)) * tl.exp2(through)[:, None]
        y = tl.dot((scores * weight).to(dtype), x_tile, y)
        y += skip * x_tile.to(tl.float32)
        kept = x_tile.to(tl.float32) * tl.exp2(whole - source)[:, None]
        state = tl.dot(tl.trans(b_tile), kept.to(dtype), state * tl.exp2(whole))
        if EVEN:
            out.store([row0, head * head_dim], y.to(dtype))
        else:
            cells = (t * heads + head)[:, None] * head_dim + p[None, :]
            tl.store(out + cells, y.to(dtype), mask=t_in[:, None] & p_in[None, :])
    if EVEN:
        last.store([(batch * heads + head) * head_dim, 0], tl.trans(state))
    else:
        cells = lane * head_dim * d_state + p[None, :] * d_state + n[:, None]
        tl.store(last + cells, state, mask=p_in[None, :] & n_in[:, None])


def chunk_decays(inputs: MambaInputs, tile: ScanTile) -> tuple[torch.Tensor, torch.Tensor]:
    """Base-2 logarithms of the decays inside each chunk, fp32 `[batch, heads, whole chunks of length]`.

    through_i = sum of d A up to token i of the chunk; source_j = through_j - log2 d_j, so that token j reaches
    token i with weight 2^(through_i - source_j), in one exponential. Tokens past the end weigh nothing.
    """
    batch, length, heads = inputs.dt.shape
    chunks = triton.cdiv(length, tile.chunk)
    shape = (batch, heads, chunks * tile.chunk)
    through, source = (torch.empty(shape, dtype=torch.float32, device=inputs.dt.device) for _ in range(2))
    decay_kernel[(chunks, triton.cdiv(heads, tile.decay_heads), batch)](
        inputs.dt, inputs.a, inputs.dt_bias, through, source, length, shape[2], heads,
        CHUNK=tile.chunk, HEADS=tile.decay_heads, num_warps=4,
    )  # fmt: skip
    return through, source


def mamba_scan(
    inputs: MambaInputs, state: torch.Tensor | None = None, *, tile: ScanTile = SCAN_TILE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs `[batch, length, heads, head_dim]` and the last state, fp32 `[batch, heads, head_dim, d_state]`.

    Starts from `state` (zeros without one), any length. Raises KernelRequirementError where no GPU is there or
    a shape does not fit.
    """
    batch, length, heads, head_dim = inputs.x.shape
    groups, d_state = inputs.b.shape[2:]
    require_gpu("mamba_scan")
    require_tensor("mamba_scan", "x", inputs.x, tuple(inputs.x.shape), _ACTIVATIONS)
    for name in ("b", "c"):
        tensor = getattr(inputs, name)
        require_tensor("mamba_scan", name, tensor, tuple(tensor.shape), (inputs.x.dtype,))
    require_tensor("mamba_scan", "dt", inputs.dt, tuple(inputs.dt.shape), (*_ACTIVATIONS, torch.float32))
    shape = (batch, heads, head_dim, d_state)
    if state is None:
        state = torch.zeros(shape, dtype=torch.float32, device=inputs.x.device)
    require_tensor("mamba_scan", "state", state, shape, (torch.float32,))
    out, last = torch.empty_like(inputs.x), torch.empty_like(state)
    p_pad, n_pad = max(16, triton.next_power_of_2(head_dim)), max(16, triton.next_power_of_2(d_state))
    even = length % tile.chunk == 0 and (p_pad, n_pad) == (head_dim, d_state)
    operands = (inputs.x, inputs.b, inputs.c, out, state, last)
    if even:
        x, b, c, y = (
            TensorDescriptor.from_tensor(tensor.view(batch * length, -1), [tile.chunk, tensor.shape[3]])
            for tensor in operands[:4]
        )
        first, end = (
            TensorDescriptor.from_tensor(tensor.view(-1, d_state), [head_dim, d_state]) for tensor in operands[4:]
        )
    else:
        x, b, c, y, first, end = operands
    through, source = chunk_decays(inputs, tile)
    scan_kernel[(heads, batch)](
        x, through, source, b, c, inputs.d, first, y, end,
        length, through.shape[2], heads, groups, head_dim, d_state,
        CHUNK=tile.chunk, P_PAD=p_pad, N_PAD=n_pad, STAGES=tile.num_stages, EVEN=even, num_warps=tile.num_warps,
    )  # fmt: skip
    return out, last
