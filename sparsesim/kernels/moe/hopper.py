"""The grouped GEMM in CUDA C++, for Hopper in bf16: blocks of a cluster share tiles, which Triton cannot say."""

from __future__ import annotations

import functools
from ctypes import CDLL
from pathlib import Path

import torch

from sparsesim.kernels.common import native
from sparsesim.kernels.common.requirements import KernelRequirementError, require_multiple, require_tensor

_NAME = "moe grouped (Hopper)"
_SOURCE = Path(__file__).parent / "cuda" / "grouped.cu"
_SUM_FLOATS, _FLAGS = 65536, 4
"""What one cluster keeps where the depth of an item is split."""
MOST_EXPERTS = 1024


@functools.cache
def _clusters(device: int) -> int:
    """Clusters that run at a time."""
    with torch.cuda.device(device):
        return int(_library().moe_grouped_clusters())


def _library() -> CDLL:
    return native.hopper_library(_SOURCE)


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel can multiply x by weight on this machine."""
    experts, n, k = weight.shape
    fits = x.dtype == torch.bfloat16 and experts <= MOST_EXPERTS and n % 8 == 0 and k % 8 == 0
    return fits and len(x) > 0 and native.hopper_missing() is None


def grouped_mm(
    x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, out: torch.Tensor, overlap: bool = False
) -> torch.Tensor:
    """Rows of each expert times its weights into out `[rows, n]`; arguments as those of `grouped.grouped_mm`.

    Raises KernelRequirementError where the GPU, the compiler or a shape does not fit.
    """
    experts, n, k = weight.shape
    for name, tensor, shape in (("x", x, (None, k)), ("weight", weight, (experts, n, k)), ("out", out, (len(x), n))):
        require_tensor(_NAME, name, tensor, shape, (torch.bfloat16,))
    require_tensor(_NAME, "offsets", offsets, (experts + 1,), (torch.int32,))
    require_multiple(_NAME, "experts", experts, 1, maximum=MOST_EXPERTS)
    require_multiple(_NAME, "n", n, 8)
    require_multiple(_NAME, "k", k, 8)
    library, clusters = _library(), _clusters(x.device.index)
    if clusters < 1:
        raise KernelRequirementError(f"{_NAME}: no cluster of two blocks fits on this GPU")
    split = k >= library.moe_grouped_split_depth()
    sums = torch.empty(clusters * _SUM_FLOATS, dtype=torch.float32, device=x.device) if split else None
    flags = torch.empty(clusters * _FLAGS, dtype=torch.int32, device=x.device) if split else None
    status = library.moe_grouped(
        *(native.pointer(t) for t in (x, weight, offsets, out, sums, flags)),
        len(x),
        experts,
        n,
        k,
        clusters,
        int(overlap),
        native.current_stream(),
    )
    native.check(status, _NAME)
    return out
