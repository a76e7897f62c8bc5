"""State-space kernels.

Step: t = t0 + bytes / B. Scan, fused, one program a sequence and head that walks its chunks:

    q = ceil(B H / SM),  s = flat + (1 - flat) (state of a head / 64 x 128)
    t = t0 + q t1 + pnorm(6; chunks s t_chunk, chunks s q 64 w, bytes / B)

The chain over chunks is serial, so one long prompt is bound by latency until B H exceeds the SMs; then the SM with the
most programs decides. Where tokens are no whole chunks another kernel runs, with masks in place of bulk copies.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms.base import Form, Parameter, Parameters, Timing, bytes_per_s, one_or_each, pnorm, share
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import SsmScan, SsmStep
from sparsesim.work.ssm import CHUNK_TOK

SCAN_KNEE = 6.0
"""Sharpness of the scan's knee (facts: kernel forms)."""


class SsmStepForm(Form[SsmStep]):
    """Time of `SsmStep`."""

    op: ClassVar[str] = "ssm_step"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 0.3e-6, 30e-6, 4e-6, "launch and drain"),
        Parameter("bandwidth", "1", 0.2, 1.0, 0.85, "share of the datasheet's bytes/s"),
    )

    def kernel_class(self, op: SsmStep) -> str:
        """One set for all recurrences: state traffic decides."""
        return "ssm_step"

    def timing(self, op: SsmStep, p: Parameters, chip: Chip) -> Timing:
        """State in and out."""
        hbm = np.asarray(op.hbm_bytes(), float)
        memory = hbm / bytes_per_s(chip, p["bandwidth"])
        zero = np.zeros_like(memory)
        return Timing(p["t0"] + memory, zero, zero, memory, 0.0, p["t0"] + zero, np.asarray(op.flop()), hbm, 0.0, hbm)


class SsmScanForm(Form[SsmScan]):
    """Time of `SsmScan`."""

    op: ClassVar[str] = "ssm_scan"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 0.3e-6, 100e-6, 10e-6, "launch and drain"),
        Parameter("t1", "s", 1e-9, 50e-6, 1e-6, "a head's own cost"),
        Parameter("w", "s", 1e-12, 1e-6, 25e-9, "a token of a head on one SM, for 64 x 128 of state"),
        Parameter("bandwidth", "1", 0.2, 1.0, 0.7, "share of the datasheet's bytes/s"),
        Parameter("t_chunk", "s", 0.05e-6, 100e-6, 2e-6, "a chunk in the serial chain"),
        Parameter("flat", "1", 0.0, 1.0, 0.3, "share of a chunk's time that does not follow the state's size"),
    )

    def kernel_class(self, op: SsmScan) -> str | npt.NDArray[np.str_]:
        """One set per recurrence, and another for masked chunks."""
        masked = np.asarray(op.tokens, float) % CHUNK_TOK > 0
        return one_or_each(np.where(masked, f"ssm_scan.{op.kind}.masked", f"ssm_scan.{op.kind}"))

    def timing(self, op: SsmScan, p: Parameters, chip: Chip) -> Timing:
        """Chunks spread over the SMs, or the chain of them."""
        tokens = np.asarray(op.tokens, float)
        chunks = np.ceil(tokens / CHUNK_TOK)
        state = np.asarray(op.head_dim, float) * op.state / (64.0 * 128.0)
        steps = chunks * (p["flat"] + (1.0 - p["flat"]) * state)
        programs = np.ceil(op.batch * np.asarray(op.heads, float) / chip.sms)
        hbm = np.asarray(op.hbm_bytes(), float)
        chain, work = steps * p["t_chunk"], steps * programs * CHUNK_TOK * p["w"]
        memory = hbm / bytes_per_s(chip, p["bandwidth"])
        busy = pnorm(SCAN_KNEE, chain, work, memory)
        fixed = p["t0"] + p["t1"] * programs
        stretches = busy * (1.0 - share(SCAN_KNEE, memory, chain, work))
        return Timing(
            fixed + busy,
            stretches,
            np.maximum(work, chain),
            memory,
            0.0,
            fixed,
            np.asarray(op.flop()),
            hbm,
            0.0,
        )
