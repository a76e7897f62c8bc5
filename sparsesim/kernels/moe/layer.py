# mypy: disable-error-code="no-untyped-def"
"""The mixture-of-experts layer: router to combine in four launches, five above one tail block of tokens.

    route -> gate+up grouped GEMM (gather and silu(gate) * up fused) -> down grouped GEMM -> combine

Every launch's grid follows from the shapes alone: no host synchronisation, so the layer can be captured in a
CUDA graph and replayed on any input. The combine adds the top_k rows of a token in ascending expert order,
so results do not depend on the order in which programs run.

On Hopper the launches overlap: route starts like any kernel, after all earlier work; each of the others starts
early and waits for the one before it, which has waited for the one before that.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from sparsesim.kernels.common.requirements import interpreting, require_gpu, require_multiple, require_tensor
from sparsesim.kernels.moe.config import LayerTiles, layer_tiles
from sparsesim.kernels.moe.grouped import grouped_mm, pdl_options
from sparsesim.kernels.moe.reference import MoEWeights
from sparsesim.kernels.moe.route import RouterScratch, Routing, empty_routing, route, router_scratch

_DTYPES = (torch.bfloat16, torch.float16)


@triton.jit
def combine_kernel(
    y_ptr, slot_row_ptr, slot_weight_ptr, out_ptr, d_model,
    TOP_K: tl.constexpr, BLOCK_D: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out[t] = sum over slots of weight * y[row], in fp32 and slot order."""
    if OVERLAP:
        gdc_wait()
    t = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for slot in tl.static_range(TOP_K):
        row = tl.load(slot_row_ptr + t * TOP_K + slot)
        weight = tl.load(slot_weight_ptr + t * TOP_K + slot)
        y = tl.load(y_ptr + row.to(tl.int64) * d_model + d, mask=d < d_model, other=0.0)
        acc += weight * y.to(tl.float32)
    tl.store(out_ptr + t.to(tl.int64) * d_model + d, acc.to(out_ptr.dtype.element_ty), mask=d < d_model)


@dataclass(frozen=True)
class MoEWorkspace:
    """Buffers of one layer call for a fixed number of tokens; reusable call after call on one stream."""

    tiles: LayerTiles
    scratch: RouterScratch
    routing: Routing
    hidden: torch.Tensor
    expanded: torch.Tensor
    overlap: bool


def can_overlap() -> bool:
    """Whether kernels may start before the one ahead has finished: from compute capability 9.0 on."""
    return not interpreting() and torch.cuda.get_device_capability() >= (9, 0)


def moe_workspace(
    tokens: int, weights: MoEWeights, top_k: int, dtype: torch.dtype, tiles: LayerTiles | None = None
) -> MoEWorkspace:
    """Allocate the buffers of `moe_layer` for `tokens` tokens, by default with the measured launch settings."""
    tiles = layer_tiles(tokens, top_k, weights.experts, weights.d_expert) if tiles is None else tiles
    device, rows = weights.router.device, tokens * top_k
    return MoEWorkspace(
        tiles=tiles,
        scratch=router_scratch(tokens, weights.experts, tiles.router, device),
        routing=empty_routing(tokens, weights.experts, top_k, device),
        hidden=torch.empty((rows, weights.d_expert), dtype=dtype, device=device),
        expanded=torch.empty((rows, weights.d_model), dtype=dtype, device=device),
        overlap=can_overlap(),
    )


def combine(y: torch.Tensor, routing: Routing, block_d: int, out: torch.Tensor, overlap: bool = False) -> torch.Tensor:
    """Weighted sum of each token's rows of y `[tokens * top_k, d_model]` into out `[tokens, d_model]`."""
    tokens, top_k = routing.slot_row.shape
    grid = (tokens, triton.cdiv(y.shape[1], block_d))
    combine_kernel[grid](
        y, routing.slot_row, routing.slot_weight, out, y.shape[1],
        TOP_K=top_k, BLOCK_D=block_d, OVERLAP=overlap, num_warps=4, **pdl_options(overlap),
    )  # fmt: skip
    return out


def check_layer(x: torch.Tensor, weights: MoEWeights, top_k: int) -> None:
    """Raise KernelRequirementError naming the first thing that the kernels cannot take."""
    require_gpu("moe")
    require_tensor("moe", "x", x, (None, weights.d_model), _DTYPES)
    for name in ("router", "gate_up", "down"):
        tensor = getattr(weights, name)
        require_tensor("moe", name, tensor, tuple(tensor.shape), (x.dtype,))
    require_multiple("moe", "d_model", weights.d_model, 8)
    require_multiple("moe", "d_expert", weights.d_expert, 8)
    require_multiple("moe", "top_k", top_k, 1, maximum=weights.experts)


def moe_layer(
    x: torch.Tensor,
    weights: MoEWeights,
    top_k: int,
    *,
    renormalise: bool = True,
    workspace: MoEWorkspace | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mixture-of-experts layer of x `[tokens, d_model]` (bf16 or fp16): `[tokens, d_model]`.

    Rarely needed: `workspace` from `moe_workspace` (else allocated per call; give one when capturing a CUDA
    graph), `out` to write into. Raises KernelRequirementError where no GPU is there or a shape does not fit.
    """
    check_layer(x, weights, top_k)
    out = torch.empty_like(x) if out is None else out
    if x.shape[0] == 0:
        return out
    work = moe_workspace(x.shape[0], weights, top_k, x.dtype) if workspace is None else workspace
    tiles, overlap = work.tiles, work.overlap
    routing = route(x, weights.router, top_k, tiles.router, work.scratch, work.routing, renormalise, overlap)
    hidden = grouped_mm(
        x, weights.gate_up, routing.offsets, tiles.gate_up,
        gated=True, row_token=routing.row_token, out=work.hidden, overlap=overlap,
    )  # fmt: skip
    expanded = grouped_mm(hidden, weights.down, routing.offsets, tiles.down, out=work.expanded, overlap=overlap)
    return combine(expanded, routing, tiles.combine_block_d, out, overlap)
