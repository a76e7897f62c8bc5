"""What is asked of a device: kernels and collectives as frozen values of their shapes.

Every numeric field may be a scalar or an array; arrays broadcast, so that one value can stand for a thousand steps.
An op declares its columns once, as dataclass fields: `predict`, `validate`, `schema ops` and the calibration CSV
headers derive from them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = float | npt.NDArray[np.float64]

DTYPE_BYTES: dict[str, float] = {
    "fp64": 8,
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "int8": 1,
    "fp4": 0.5,
    "int4": 0.5,
    "mxfp4": 0.5 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "int4-g128": 0.5 + 2.5 / 128,
    "int4-g32": 0.5 + 2 / 32,
    "ternary": 0.25,
}
"""Bytes of one stored element, scales included: mxfp4 has one 8-bit scale per 32 elements (OCP MX 1.0), nvfp4 one fp8
scale per 16, int4-g128 an fp16 scale and a 4-bit zero point per 128 (GPTQ/AWQ layout),
int4-g32 an fp16 scale per 32 (MLC's q4f16_1), ternary is packed 2 bits each."""

COMPUTE_DTYPE: dict[str, str] = {
    "mxfp4": "bf16",
    "nvfp4": "fp4",
    "int4": "bf16",
    "int4-g128": "bf16",
    "int4-g32": "bf16",
    "ternary": "bf16",
}
"""The dtype of the multiply-adds of weights stored so, where no unit takes them directly (weight-only)."""


def column(meaning: str, unit: str = "", default: Any = dataclasses.MISSING) -> Any:
    """A field of an op: its meaning and unit, and the default where it may be left out."""
    metadata = {"meaning": meaning, "unit": unit}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One kernel or collective; subclasses add the columns that size it."""

    op: ClassVar[str]
    graph: bool = column("launched inside a CUDA graph", default=True)
    regime: str = column("burst (clocks at their maximum) or sustained (under the power cap)", default="burst")

    def flop(self) -> Array:
        """Floating-point operations asked for (two per multiply-add), nothing padded."""
        return 0.0

    def hbm_bytes(self) -> Array:
        """Bytes that must cross the device memory's pins: each input read once, each output written once."""
        return 0.0

    def link_bytes(self) -> Array:
        """Bytes that one rank sends to other devices."""
        return 0.0

    def compute_dtype(self) -> str:
        """The precision of the multiply-adds."""
        dtype = getattr(self, "dtype", "bf16")
        return COMPUTE_DTYPE.get(dtype, dtype)


def columns(op: type[Op]) -> dict[str, dataclasses.Field[Any]]:
    """The columns of an op by name, its own first, the ones every op has last."""
    fields = {f.name: f for f in dataclasses.fields(op)}
    common = [f.name for f in dataclasses.fields(Op)]
    return {n: f for n, f in fields.items() if n not in common} | {n: fields[n] for n in common}


def required(op: type[Op]) -> tuple[str, ...]:
    """Names of the columns without a default."""
    return tuple(name for name, f in columns(op).items() if f.default is dataclasses.MISSING)


def dtype_bytes(dtype: str) -> float:
    """Bytes per stored element.

    Raises:
        ValueError: naming the dtypes that are known.

    """
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]
