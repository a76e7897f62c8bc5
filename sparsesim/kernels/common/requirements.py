"""Checks of what a kernel needs, with errors that name the place, the value and what would be accepted."""

from __future__ import annotations

import os
from typing import Any

import torch

Tensor = torch.Tensor


class KernelRequirementError(RuntimeError):
    """The machine or an argument does not meet what a kernel needs."""


def interpreting() -> bool:
    """Whether Triton kernels run under its interpreter (``TRITON_INTERPRET=1``), hence on CPU tensors too."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def gpu_missing() -> str | None:
    """Say why kernels cannot run on a GPU here, or ``None`` when they can."""
    if not torch.cuda.is_available():
        return "no CUDA device is visible to PyTorch"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    return None


def require_gpu(kernel: str) -> None:
    """Raise ``KernelRequirementError`` unless a GPU, or Triton's interpreter, can run ``kernel``."""
    if interpreting():
        return
    missing = gpu_missing()
    if missing is not None:
        raise KernelRequirementError(
            f"{kernel}: {missing}; run on a CUDA GPU with triton, set TRITON_INTERPRET=1 to interpret the "
            "kernel on the CPU, or call the PyTorch reference beside it"
        )


def require_capability(kernel: str, minimum: tuple[int, int]) -> None:
    """Raise unless the current GPU has at least compute capability ``minimum``, (9, 0) being Hopper."""
    require_gpu(kernel)
    if interpreting():
        return
    found = torch.cuda.get_device_capability()
    if found < minimum:
        raise KernelRequirementError(
            f"{kernel}: {torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}; "
            f"{minimum[0]}.{minimum[1]} or later is needed"
        )


def require_multiple(kernel: str, name: str, value: int, divisor: int, maximum: int | None = None) -> None:
    """Raise unless ``value`` is a positive multiple of ``divisor``, and at most ``maximum`` where one is
    given.
    """
    if value < 1 or value % divisor or (maximum is not None and value > maximum):
        bound = "" if maximum is None else f" up to {maximum}"
        raise KernelRequirementError(f"{kernel}: {name} is {value}, must be a multiple of {divisor}{bound}")


def require_tensor(
    kernel: str, name: str, tensor: Any, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    """Raise unless ``tensor`` is contiguous, of one of ``dtypes`` and of ``shape`` (``None`` is any size)."""
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(w is None or w == f for w, f in zip(shape, found, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise KernelRequirementError(f"{kernel}: {name} has shape {list(found)}, must be [{wanted}]")
    if tensor.dtype not in dtypes:
        accepted = ", ".join(str(dtype) for dtype in dtypes)
        raise KernelRequirementError(f"{kernel}: {name} is {tensor.dtype}, accepted are {accepted}")
    if not tensor.is_contiguous():
        strides = tuple(tensor.stride())
        raise KernelRequirementError(f"{kernel}: {name} must be contiguous, has strides {strides}")
