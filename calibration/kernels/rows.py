"""Rows of the kernel benchmarks: time, share of the bound and energy of variants measured side by side.

The bound of a row is max(bytes / bandwidth, FLOP / rate) with the two ceilings measured in the same run: a
device-to-device copy of 1 GiB counting bytes read and written, and an 8192^3 bf16 product. Bytes are inputs
and outputs counted once; FLOP are nominal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsesim.kernels.common.energy import measure_energy
from sparsesim.kernels.common.timing import Runner, captured, time_runners

GIB = 1 << 30
GEMM_SIZE = 8192


@dataclass(frozen=True)
class Case:
    """One variant: what identifies it, its calls, and what one call moves and computes."""

    labels: Mapping[str, Any]
    calls: Sequence[Any]
    bytes_moved: float
    flop: float = 0.0
    relative_error: float | None = None
    energy: bool = False


@dataclass(frozen=True)
class Ceilings:
    """Bytes and FLOP per second that this GPU reaches in this run."""

    bytes_per_s: float
    flop_per_s: float


@dataclass
class Table:
    """Collects rows; variants given to one `add` are timed in turn, round after round."""

    ceilings: Ceilings
    samples: int = 15
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, cases: Sequence[Case]) -> list[float]:
        """Time the cases interleaved, append their rows, and return their median seconds."""
        runners = {str(i): captured(case.calls) for i, case in enumerate(cases)}
        timings = time_runners(runners, self.samples)
        medians = []
        for key, case in zip(runners, cases, strict=True):
            timing = timings[key]
            medians.append(timing.median_s)
            bound_s = max(case.bytes_moved / self.ceilings.bytes_per_s, case.flop / self.ceilings.flop_per_s)
            row = {
                **case.labels,
                "median_us": timing.median_s * 1e6,
                "minimum_us": timing.minimum_s * 1e6,
                "spread": timing.spread,
                "samples": timing.samples,
                "calls_per_sample": timing.calls_per_sample,
                "mode": timing.mode,
                "bytes": case.bytes_moved,
                "flop": case.flop,
                "tb_per_s": case.bytes_moved / timing.median_s * 1e-12,
                "tflop_per_s": case.flop / timing.median_s * 1e-12,
                "bound_us": bound_s * 1e6,
                "share_of_bound": bound_s / timing.median_s,
                "relative_error": "" if case.relative_error is None else case.relative_error,
            }
            self.rows.append(row | (_energy(runners[key]) if case.energy else {}))
        return medians


def _energy(runner: Runner) -> dict[str, Any]:
    reading = measure_energy(runner)
    return {
        "sustained_us": reading.call_s * 1e6,
        "energy_mj": reading.call_j * 1e3,
        "power_w": reading.power_w,
        "window_s": reading.duration_s,
    }


def measure_ceilings() -> Ceilings:
    """Copy bandwidth (read + write) and bf16 rate of the current GPU, random data, each a median of 15."""
    source = torch.empty(GIB // 2, dtype=torch.bfloat16, device="cuda").normal_()
    target = torch.empty_like(source)
    a, b = (torch.empty((GEMM_SIZE,) * 2, dtype=torch.bfloat16, device="cuda").normal_() for _ in range(2))
    timing = time_runners(
        {"copy": captured([lambda: target.copy_(source)]), "gemm": captured([lambda: a @ b])}, sample_s=5e-3
    )
    return Ceilings(2 * GIB / timing["copy"].median_s, 2 * GEMM_SIZE**3 / timing["gemm"].median_s)


def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Random normal values on the GPU: zeros would run cooler and up to 13 % faster."""
    return torch.empty(*shape, dtype=dtype, device="cuda").normal_().mul_(scale)
