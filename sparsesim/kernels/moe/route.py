# mypy: disable-error-code="no-untyped-def"
"""Router and permutation: logits, softmax, top-k, renormalisation and counting sort, without a host step.

`router_kernel` multiplies one block of tokens with one block of experts. The program that finishes a *tail
block* of tokens last (an atomic counter says so) turns the block's logits into choices: top_k rounds of a
row maximum over 64-bit keys (ordered logit bits, then the lower expert first), so equal logits cannot pick
an expert twice. The choices form a 0/1 matrix `[tokens, experts]`; its prefix sum down the tokens is every
assignment's place within its expert, its column sum the expert's load: a counting sort without atomics,
hence the same on every run.

With one tail block (up to 64 tokens) that program also writes the sorted order, and routing is a single
launch. With more, `scatter_kernel` adds the loads of earlier blocks.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sparsesim.kernels.moe.config import RouterTile
from sparsesim.kernels.moe.grouped import pdl_options

_LOWEST = tl.constexpr(-(2**63))


@dataclass(frozen=True)
class Routing:
    """Assignments of tokens to experts, rows sorted by expert and, within one, by token.

    slot_expert, slot_row `[tokens, top_k]` int32: the experts of a token in ascending order, and the sorted
    row of each; slot_weight, same shape, fp32; row_token `[tokens * top_k]` int32: the token of each sorted
    row; offsets `[experts + 1]` int32: first row of each expert, then the number of rows.
    """

    slot_expert: torch.Tensor
    slot_weight: torch.Tensor
    slot_row: torch.Tensor
    row_token: torch.Tensor
    offsets: torch.Tensor


@triton.jit
def _partial_logits(
    x_ptr, router_ptr, part_ptr, tokens, experts, d_model, token0, expert0, split,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Logits of a `[BLOCK_T, BLOCK_E]` tile over every SPLITS-th slice of d_model, in fp32."""
    t = token0 + tl.arange(0, BLOCK_T)
    e = expert0 + tl.arange(0, BLOCK_E)
    acc = tl.zeros((BLOCK_T, BLOCK_E), dtype=tl.float32)
    for k0 in range(split * BLOCK_K, d_model, SPLITS * BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inside = (k < d_model)[None, :]
        x = tl.load(x_ptr + t[:, None] * d_model + k[None, :], mask=(t < tokens)[:, None] & inside, other=0.0)
        w = tl.load(router_ptr + e[:, None] * d_model + k[None, :], mask=(e < experts)[:, None] & inside, other=0.0)
        acc = tl.dot(x, w.T, acc)
    out = part_ptr + split * tokens * experts + t[:, None] * experts + e[None, :]
    tl.store(out, acc, mask=(t < tokens)[:, None] & (e < experts)[None, :])


@triton.jit
def _choose(logits, e, valid, EXPERTS_PAD: tl.constexpr, TOP_K: tl.constexpr):
    """0/1 matrix of the TOP_K largest logits of every valid row; ties go to the lower expert."""
    bits = logits.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = ordered.to(tl.int64) * EXPERTS_PAD + (EXPERTS_PAD - 1 - e)[None, :]
    chosen = tl.zeros_like(bits)
    for _ in tl.static_range(TOP_K):
        best = tl.max(key, axis=1)
        hit = key == best[:, None]
        chosen = tl.where(hit, 1, chosen)
        key = tl.where(hit, _LOWEST, key)
    return tl.where(valid[:, None], chosen, 0)


@triton.jit
def _route_block(
    part_ptr, slot_expert_ptr, slot_weight_ptr, slot_row_ptr, row_token_ptr, offsets_ptr, load_ptr,
    block, tokens, experts,
    TAIL_T: tl.constexpr, EXPERTS_PAD: tl.constexpr, TOP_K: tl.constexpr, SPLITS: tl.constexpr,
    RENORMALISE: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    """Choices, weights and places of one tail block; with SINGLE also the sorted order."""
    t = block * TAIL_T + tl.arange(0, TAIL_T)
    e = tl.arange(0, EXPERTS_PAD)
    valid = t < tokens
    inside = valid[:, None] & (e < experts)[None, :]
    cell = t[:, None] * experts + e[None, :]
    logits = tl.zeros((TAIL_T, EXPERTS_PAD), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        part = part_ptr + split * tokens * experts
        logits += tl.load(part + cell, mask=inside, other=0.0, cache_modifier=".cg")
    logits = tl.where((e < experts)[None, :], logits, float("-inf"))
    chosen = _choose(logits, e, valid, EXPERTS_PAD, TOP_K)
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    total = tl.sum(p * chosen if RENORMALISE else p, axis=1)
    weight = p / tl.where(valid, total, 1.0)[:, None]
    slot = t[:, None] * TOP_K + tl.cumsum(chosen, 1) - 1
    place = tl.cumsum(chosen, 0) - 1
    load = tl.sum(chosen, axis=0)
    picked = chosen > 0
    tl.store(slot_expert_ptr + slot, tl.broadcast_to(e[None, :], (TAIL_T, EXPERTS_PAD)), mask=picked)
    tl.store(slot_weight_ptr + slot, weight, mask=picked)
    if SINGLE:
        first = tl.cumsum(load, 0) - load
        row = first[None, :] + place
        tl.store(slot_row_ptr + slot, row, mask=picked)
        tl.store(row_token_ptr + row, tl.broadcast_to(t[:, None], (TAIL_T, EXPERTS_PAD)), mask=picked)
        tl.store(offsets_ptr + e, first, mask=e < experts)
        tl.store(offsets_ptr + experts, tl.sum(load, 0))
    else:
        tl.store(slot_row_ptr + slot, place, mask=picked)
        tl.store(load_ptr + block * experts + e, load, mask=e < experts)


@triton.jit
def router_kernel(
    x_ptr, router_ptr, part_ptr, counter_ptr, load_ptr,
    slot_expert_ptr, slot_weight_ptr, slot_row_ptr, row_token_ptr, offsets_ptr,
    tokens, experts, d_model,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr,
    TAIL_T: tl.constexpr, EXPERTS_PAD: tl.constexpr, TOP_K: tl.constexpr,
    RENORMALISE: tl.constexpr, SINGLE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid (token blocks, expert blocks, SPLITS); the last program of a tail block routes it."""
    if OVERLAP:
        gdc_launch_dependents()
    token_block = tl.program_id(0)
    _partial_logits(
        x_ptr, router_ptr, part_ptr, tokens, experts, d_model,
        token_block * BLOCK_T, tl.program_id(1) * BLOCK_E, tl.program_id(2), BLOCK_T, BLOCK_E, BLOCK_K, SPLITS,
    )  # fmt: skip
    tl.debug_barrier()
    block = token_block * BLOCK_T // TAIL_T
    first = block * (TAIL_T // BLOCK_T)
    members = tl.minimum(tl.num_programs(0) - first, TAIL_T // BLOCK_T) * tl.num_programs(1) * SPLITS
    arrived = tl.atomic_add(counter_ptr + block, 1, sem="acq_rel", scope="gpu")
    if arrived == members - 1:
        tl.store(counter_ptr + block, 0)
        _route_block(
            part_ptr, slot_expert_ptr, slot_weight_ptr, slot_row_ptr, row_token_ptr, offsets_ptr, load_ptr,
            block, tokens, experts, TAIL_T, EXPERTS_PAD, TOP_K, SPLITS, RENORMALISE, SINGLE,
        )  # fmt: skip


@triton.jit
def scatter_kernel(
    load_ptr, base_ptr, slot_expert_ptr, slot_row_ptr, row_token_ptr, offsets_ptr,
    tokens, experts, blocks,
    TAIL_T: tl.constexpr, TOP_K: tl.constexpr, SLOTS_PAD: tl.constexpr, EXPERTS_PAD: tl.constexpr,
    BLOCKS_STEP: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Program b turns places within block b into sorted rows: + loads of earlier blocks + expert's first row."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    block = tl.program_id(0)
    e = tl.arange(0, EXPERTS_PAD)
    before = tl.zeros((EXPERTS_PAD,), dtype=tl.int32)
    total = tl.zeros((EXPERTS_PAD,), dtype=tl.int32)
    for b0 in range(0, blocks, BLOCKS_STEP):
        b = b0 + tl.arange(0, BLOCKS_STEP)
        inside = (b < blocks)[:, None] & (e < experts)[None, :]
        load = tl.load(load_ptr + b[:, None] * experts + e[None, :], mask=inside, other=0)
        total += tl.sum(load, axis=0)
        before += tl.sum(tl.where((b < block)[:, None], load, 0), axis=0)
    first = tl.cumsum(total, 0) - total
    tl.store(base_ptr + block * experts + e, first + before, mask=e < experts)
    if block == 0:
        tl.store(offsets_ptr + e, first, mask=e < experts)
        tl.store(offsets_ptr + experts, tl.sum(total, 0))
    tl.debug_barrier()
    i = tl.arange(0, SLOTS_PAD)
    slot = block * TAIL_T * TOP_K + i
    mine = (i < TAIL_T * TOP_K) & (slot < tokens * TOP_K)
    expert = tl.load(slot_expert_ptr + slot, mask=mine, other=0)
    row = tl.load(base_ptr + block * experts + expert, mask=mine, other=0) + tl.load(
        slot_row_ptr + slot, mask=mine, other=0
    )
    tl.store(slot_row_ptr + slot, row, mask=mine)
    tl.store(row_token_ptr + row, slot // TOP_K, mask=mine)


@dataclass(frozen=True)
class RouterScratch:
    """Buffers of one routing: fp32 partial logits, arrival counters (zero between calls), loads, bases."""

    part: torch.Tensor
    counter: torch.Tensor
    load: torch.Tensor
    base: torch.Tensor


def router_scratch(tokens: int, experts: int, tile: RouterTile, device: torch.device) -> RouterScratch:
    """Allocate what `route` needs between its programs; reusable call after call on one stream."""
    blocks = triton.cdiv(tokens, tile.tail_t)
    ints = {"dtype": torch.int32, "device": device}
    return RouterScratch(
        part=torch.empty((tile.splits, tokens, experts), dtype=torch.float32, device=device),
        counter=torch.zeros(blocks, **ints),
        load=torch.empty((blocks, experts), **ints),
        base=torch.empty((blocks, experts), **ints),
    )


def empty_routing(tokens: int, experts: int, top_k: int, device: torch.device) -> Routing:
    """Unwritten outputs of `route`."""
    ints = {"dtype": torch.int32, "device": device}
    return Routing(
        slot_expert=torch.empty((tokens, top_k), **ints),
        slot_weight=torch.empty((tokens, top_k), dtype=torch.float32, device=device),
        slot_row=torch.empty((tokens, top_k), **ints),
        row_token=torch.empty(tokens * top_k, **ints),
        offsets=torch.empty(experts + 1, **ints),
    )


def route(
    x: torch.Tensor,
    router: torch.Tensor,
    top_k: int,
    tile: RouterTile,
    scratch: RouterScratch,
    out: Routing,
    renormalise: bool = True,
    overlap: bool = False,
) -> Routing:
    """Fill `out` with the assignments of x `[tokens, d_model]` under router `[experts, d_model]`.

    With `overlap` the next kernel may start early: only for one that waits before it reads `out`.
    """
    tokens, d_model = x.shape
    experts = router.shape[0]
    blocks = triton.cdiv(tokens, tile.tail_t)
    pad = triton.next_power_of_2(experts)
    grid = (triton.cdiv(tokens, tile.block_t), triton.cdiv(experts, tile.block_e), tile.splits)
    router_kernel[grid](
        x, router, scratch.part, scratch.counter, scratch.load,
        out.slot_expert, out.slot_weight, out.slot_row, out.row_token, out.offsets, tokens, experts, d_model,
        BLOCK_T=tile.block_t, BLOCK_E=tile.block_e, BLOCK_K=tile.block_k, SPLITS=tile.splits,
        TAIL_T=tile.tail_t, EXPERTS_PAD=pad, TOP_K=top_k, RENORMALISE=renormalise, SINGLE=blocks == 1, OVERLAP=overlap,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if blocks > 1:
        scatter_kernel[(blocks,)](
            scratch.load, scratch.base, out.slot_expert, out.slot_row, out.row_token, out.offsets,
            tokens, experts, blocks, TAIL_T=tile.tail_t, TOP_K=top_k,
            SLOTS_PAD=triton.next_power_of_2(tile.tail_t * top_k), EXPERTS_PAD=pad, BLOCKS_STEP=16, OVERLAP=overlap,
            num_warps=4, **pdl_options(overlap),
        )  # fmt: skip
    return out
