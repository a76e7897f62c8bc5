"""Kernels bound by memory: t = t0 + (bytes + x_half) / B, and the threshold GEMV with its skipped columns."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from sparsesim.cost.forms.base import Form, Parameter, Parameters, Timing, bytes_per_s, pnorm
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Copy, Op, Pointwise, ThresholdGemv

ROW_KNEE = 4.0
"""Sharpness of the knee between streaming and one row's chain."""
STREAMED = 0.9
"""Share of the datasheet's bytes/s at which plain passes stream (fitted: reads, writes, sums 0.83 to 0.95)."""

_STREAM = (
    Parameter("t0", "s", 0.3e-6, 30e-6, 2.5e-6, "launch and drain"),
    Parameter("bandwidth", "1", 0.02, 1.0, 0.88, "share of the datasheet's bytes/s"),
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
    """Time of `Pointwise`: t0 + pnorm(4; (bytes + x_half) / B, width * chain), the chain being one row's own."""

    op: ClassVar[str] = "pointwise"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *_STREAM,
        Parameter("chain", "s", 1e-14, 1e-8, 1e-12, "an element of a row that one block reduces in order"),
    )

    def kernel_class(self, op: Pointwise) -> str:
        """One set per kind: reductions and gathers stream slower than sums."""
        return f"pointwise.{op.kind}"

    def timing(self, op: Pointwise, p: Parameters, chip: Chip) -> Timing:
        """One pass, or the longest row.

        A kind that is slower than the memory keeps the multiprocessors as busy as a stream that would fill its time.
        """
        stream = _stream(op, p, chip)
        chain = p["chain"] * np.asarray(op.width, float)
        busy = pnorm(ROW_KNEE, stream.memory_term_s, chain)
        sram = max(1.0, STREAMED / p["bandwidth"]) * np.asarray(stream.hbm_bytes)
        return replace(stream, time_s=p["t0"] + busy, fixed_s=stream.fixed_s + chain, sram_bytes=sram)


class CopyForm(Form[Copy]):
    """Time of `Copy`."""

    op: ClassVar[str] = "copy"
    parameters: ClassVar[tuple[Parameter, ...]] = _STREAM

    def timing(self, op: Copy, p: Parameters, chip: Chip) -> Timing:
        """Read and write; the driver's copy draws what a pass through the multiprocessors draws for its bytes."""
        stream = _stream(op, p, chip)
        return replace(stream, sram_bytes=stream.hbm_bytes)


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
            stream.hbm_bytes,
        )
