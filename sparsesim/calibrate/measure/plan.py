"""What a runner hands to the session: the same op by one or several backends, each with its correctness check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsesim.kernels.common.timing import Call

BOUND_BF16 = 1e-2
"""Relative error accepted of bf16 results: they land between 1e-3 and 1e-2 (kernels.common.checks)."""
BOUND_FP8 = 3e-2
"""Of fp8 products with fast accumulation, which keeps about 14 bits, against fp32 sums of the same fp8 inputs."""


class UnsupportedError(RuntimeError):
    """A backend, or every backend, cannot run a row; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One backend: a call per buffer set; `check` maps the first call's output to (a part of it, its reference)."""

    backend: str
    calls: Sequence[Call]
    check: Callable[[Any], tuple[Any, Any]]
    bound: float = BOUND_BF16


def spread_indices(size: int, most: int) -> list[int]:
    """Up to `most` indices over 0..size-1, evenly, the first and the last among them."""
    if size <= most:
        return list(range(size))
    return sorted({round(i * (size - 1) / (most - 1)) for i in range(most)})
