# mypy: disable-error-code="no-untyped-def"
"""The split kernel of MLA decode for many heads on Hopper, with layouts and waits placed by hand (Gluon).

Triton gives both warpgroups of a program the whole score product (it keeps a softmax row inside one warp), so
half the tensor work of 64 heads is done twice, and it asks for the next tokens only after the softmax. Here:

- the two warpgroups share the scores by tokens and the output by latent columns; nothing is computed twice;
- a block of tokens is requested two blocks ahead, as soon as its buffer is free, so its arrival is hidden by a
  whole block of work;
- row sums stay spread over the threads until the end: one exchange between warpgroups per block, for the maximum.

Shared memory: query 72 KB, two blocks of 64 tokens 144 KB, weights 8 KB of the 227 KB that a program may have.
"""

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

HEADS = 64
TOKENS = 64
_WARPS = 8


@gluon.jit
def _request(latent_desc, rope_desc, latent_smem, rope_smem, ready, row, buffer, wanted, LATENT: gl.constexpr):
    """Ask the tensor memory accelerator for one block of tokens."""
    full = ready.index(buffer)
    mbarrier.expect(full, latent_desc.block_type.nbytes + rope_desc.block_type.nbytes, pred=wanted)
    tma.async_copy_global_to_shared(latent_desc, [row, 0], full, latent_smem.index(buffer), pred=wanted)
    tma.async_copy_global_to_shared(rope_desc, [row, LATENT], full, rope_smem.index(buffer), pred=wanted)


@gluon.jit
def mla_hopper_kernel(
    q_latent_desc, q_rope_desc, latent_desc, rope_desc, lengths_ptr, part_ptr, lse_ptr,
    heads, tokens, splits, scale,
    LATENT: gl.constexpr, ROPE: gl.constexpr, BLOCK_H: gl.constexpr, BLOCK_T: gl.constexpr,
):  # fmt: skip
    """Grid (head blocks, splits, batch), as `decode.mla_kernel`."""
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, BLOCK_T // 2, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, 256, 16])
    row_layout: gl.constexpr = gl.SliceLayout(1, scores_layout)
    token_layout: gl.constexpr = gl.SliceLayout(0, scores_layout)
    dtype: gl.constexpr = latent_desc.dtype
    q_latent = gl.allocate_shared_memory(dtype, [BLOCK_H, LATENT], q_latent_desc.layout)
    q_rope = gl.allocate_shared_memory(dtype, [BLOCK_H, ROPE], q_rope_desc.layout)
    latent_smem = gl.allocate_shared_memory(dtype, [2, BLOCK_T, LATENT], latent_desc.layout)
    rope_smem = gl.allocate_shared_memory(dtype, [2, BLOCK_T, ROPE], rope_desc.layout)
    weights = gl.allocate_shared_memory(dtype, [BLOCK_H, BLOCK_T], rope_desc.layout)
    ready = gl.allocate_shared_memory(gl.int64, [3, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(3):
        mbarrier.init(ready.index(i), count=1)

    head0, split, batch = gl.program_id(0) * BLOCK_H, gl.program_id(1), gl.program_id(2)
    length = gl.load(lengths_ptr + batch)
    blocks = (length + BLOCK_T - 1) // BLOCK_T
    first, last = blocks * split // splits, blocks * (split + 1) // splits
    query_ready = ready.index(2)
    mbarrier.expect(query_ready, q_latent_desc.block_type.nbytes + q_rope_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(q_latent_desc, [batch * heads + head0, 0], query_ready, q_latent)
    tma.async_copy_global_to_shared(q_rope_desc, [batch * heads + head0, LATENT], query_ready, q_rope)
    row0 = batch * tokens
    for i in gl.static_range(2):
        _request(
            latent_desc, rope_desc, latent_smem, rope_smem, ready,
            row0 + (first + i) * BLOCK_T, i, first + i < last, LATENT,
        )  # fmt: skip
    mbarrier.wait(query_ready, 0)

    high = gl.full([BLOCK_H], -1e30, gl.float32, row_layout)
    total = gl.full([BLOCK_H, BLOCK_T], 0.0, gl.float32, scores_layout)
    acc = gl.full([BLOCK_H, LATENT], 0.0, gl.float32, out_layout)
    none = gl.full([BLOCK_H, BLOCK_T], 0.0, gl.float32, scores_layout)
    lane_token = gl.arange(0, BLOCK_T, layout=token_layout)
    for block in range(first, last):
        turn = block - first
        buffer = turn & 1
        mbarrier.wait(ready.index(buffer), (turn >> 1) & 1)
        keys = latent_smem.index(buffer)
        pending = warpgroup_mma(q_latent, keys.permute((1, 0)), none, use_acc=False, is_async=True)
        pending = warpgroup_mma(q_rope, rope_smem.index(buffer).permute((1, 0)), pending, is_async=True)
        s = warpgroup_mma_wait(num_outstanding=0, deps=[pending]) * scale
        s = gl.where((block * BLOCK_T + lane_token < length)[None, :], s, float("-inf"))
        new = gl.maximum(high, gl.max(s, axis=1))
        p = gl.exp2(s - new[:, None])
        shrink = gl.exp2(high - new)
        high = new
        weights.store(p.to(dtype))
        total = total * shrink[:, None] + p
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, out_layout))[:, None]
        fence_async_shared()
        gl.thread_barrier()
        moving = warpgroup_mma(weights, keys, acc, is_async=True)
        acc = warpgroup_mma_wait(num_outstanding=0, deps=[moving])
        gl.thread_barrier()
        _request(
            latent_desc, rope_desc, latent_smem, rope_smem, ready,
            row0 + (block + 2) * BLOCK_T, buffer, block + 2 < last, LATENT,
        )  # fmt: skip
    total_row = gl.sum(total, axis=1)
    divisor = gl.where(total_row > 0.0, total_row, 1.0)
    acc = acc / gl.convert_layout(divisor, gl.SliceLayout(1, out_layout))[:, None]
    h = head0 + gl.arange(0, BLOCK_H, layout=gl.SliceLayout(1, out_layout))
    column = gl.arange(0, LATENT, layout=gl.SliceLayout(0, out_layout))
    lane = ((batch * splits + split) * heads).to(gl.int64)
    gl.store(part_ptr + (lane + h)[:, None] * LATENT + column[None, :], acc, mask=(h < heads)[:, None])
    row = head0 + gl.arange(0, BLOCK_H, layout=row_layout)
    lse = gl.where(total_row > 0.0, high + gl.log2(divisor), float("-inf"))
    gl.store(lse_ptr + lane + row, lse, mask=row < heads)


def launch(
    query: torch.Tensor,
    cache: torch.Tensor,
    lengths: torch.Tensor,
    part: torch.Tensor,
    lse: torch.Tensor,
    latent: int,
    log2_scale: float,
) -> None:
    """Fill part `[batch, splits, heads, latent]` and lse `[batch, splits, heads]`; arguments as `mla_decode`."""
    (batch, heads, width), splits = query.shape, part.shape[1]
    rope = width - latent
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    rows, queries = cache.view(-1, width), query.view(-1, width)
    q_latent, q_rope = (TensorDescriptor.from_tensor(queries, [HEADS, w], layout) for w in (latent, rope))
    k_latent, k_rope = (TensorDescriptor.from_tensor(rows, [TOKENS, w], layout) for w in (latent, rope))
    mla_hopper_kernel[(triton.cdiv(heads, HEADS), splits, batch)](
        q_latent, q_rope, k_latent, k_rope, lengths, part, lse, heads, cache.shape[1], splits, log2_scale,
        LATENT=latent, ROPE=rope, BLOCK_H=HEADS, BLOCK_T=TOKENS, num_warps=_WARPS,
    )  # fmt: skip
