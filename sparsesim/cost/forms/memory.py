"""Kernels bound by memory: t = t0 + (bytes + x_half) / B, and the threshold GEMV with its skipped columns."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sparsesim.cost.forms.base import Form, Parameter, Parameters, Timing, bytes_per_s
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Copy, Op, Pointwise, ThresholdGemv

_STREAM = (
    Parameter("t0", "s", 0.3e-6, 30e-6, 2.5e-6, "launch and drain"),
    Parameter("bandwidth", "1", 0.3, 1.0, 0.88, "share of the datasheet's bytes/s"),
    Parameter("x_half", "B", 1e3, 3e7, 1e6, "bytes at which the memory's ramp costs as much again"),
)


def _stream(op: Op, p: Parameters, chip: Chip) -> Timing:
    hbm = np.asarray(op.hbm_bytes(), float)
    memory = (hbm + p["x_half"]) / bytes_per_s(chip, p["bandwidth"])
    zero = np.zeros_like(memory)
    return Timing(
        p["t0"] + memory,
        zero,
        zero,
        memory,
        0.0,
        p["t0"] + zero,
        np.asarray(op.flop(), float) + zero,
        hbm,
        0.0,
    )


class PointwiseForm(Form[Pointwise]):
    """Time of `Pointwise`."""

    op: ClassVar[str] = "pointwise"
    parameters: ClassVar[tuple[Parameter, ...]] = _STREAM

    def timing(self, op: Pointwise, p: Parameters, chip: Chip) -> Timing:
        """One pass."""
        return _stream(op, p, chip)


class CopyForm(Form[Copy]):
    """Time of `Copy`."""

    op: ClassVar[str] = "copy"
    parameters: ClassVar[tuple[Parameter, ...]] = _STREAM

    def timing(self, op: Copy, p: Parameters, chip: Chip) -> Timing:
        """Read and write."""
        return _stream(op, p, chip)


class ThresholdGemvForm(Form[ThresholdGemv]):
    """Time of `ThresholdGemv`."""

    op: ClassVar[str] = "threshold_gemv"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *_STREAM,
        Parameter("scan", "s", 1e-13, 1e-9, 1e-11, "looking at one input of one token"),
    )

    def timing(self, op: ThresholdGemv, p: Parameters, chip: Chip) -> Timing:
        """The surviving columns, after every input was looked at."""
        stream = _stream(op, p, chip)
        looked = p["scan"] * np.asarray(op.tokens, float) * op.d_in
        return Timing(
            stream.time_s + looked,
            looked,
            looked,
            stream.memory_term_s,
            0.0,
            stream.fixed_s,
            stream.flop_executed,
            stream.hbm_bytes,
            0.0,
        )
