"""Correctness before timing: poisoned outputs and relative errors against a reference of higher precision."""

from __future__ import annotations

from typing import Any

import torch

RELATIVE_ERROR_BOUND = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest accepted ``|out - ref| / |ref|`` by operand type; bf16 products land between 1e-3 and 1e-2."""


def poisoned(*shape: int, dtype: torch.dtype, device: Any) -> Any:
    """A tensor full of NaN (floats) or of the largest value (integers): an element left unwritten shows."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype, device=device)
    return torch.full(shape, torch.iinfo(dtype).max, dtype=dtype, device=device)


def relative_error(out: Any, reference: Any) -> float:
    """``|out - ref| / |ref|`` in float64; infinite on a NaN, absolute where ``ref`` is 0."""
    wide, exact = out.detach().double(), reference.detach().double().to(out.device)
    if not bool(torch.isfinite(wide).all()):
        return float("inf")
    norm = float(exact.norm())
    return float((wide - exact).norm()) / (norm if norm > 0.0 else 1.0)


def assert_close(what: str, out: Any, reference: Any, dtype: torch.dtype) -> float:
    """Return the relative error; raise ``AssertionError`` naming it where it exceeds the bound of
    ``dtype``.
    """
    error = relative_error(out, reference)
    bound = RELATIVE_ERROR_BOUND[dtype]
    if not error <= bound:
        raise AssertionError(f"{what}: relative error {error:.3g} exceeds {bound:g} for {dtype}")
    return error
