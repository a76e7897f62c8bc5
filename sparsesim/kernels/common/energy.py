"""Energy of sustained work from the GPU's own counter, in windows that start and stop on its tick.

The counter (``nvmlDeviceGetTotalEnergyConsumption``) moves every 100 ms on an H100; windows below 2 s were
off by up to 15 %. Work is queued in small batches so that the number of finished calls is known at each
tick.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparsesim.kernels.common.requirements import KernelRequirementError
from sparsesim.kernels.common.timing import Runner

MINIMUM_WINDOW_S = 2.0
BATCH_S = 4e-3
"""Work queued between two looks at the counter: 0.2 % of the shortest window."""
_QUEUED_BATCHES = 3


@dataclass(frozen=True)
class EnergyReading:
    """One window of sustained work on one device: all joules are the device's (``scope: gpu``)."""

    energy_j: float
    duration_s: float
    calls: int

    @property
    def power_w(self) -> float:
        """Mean power of the window."""
        return self.energy_j / self.duration_s

    @property
    def call_s(self) -> float:
        """Sustained time of one call."""
        return self.duration_s / self.calls

    @property
    def call_j(self) -> float:
        """Energy of one call, static power included."""
        return self.energy_j / self.calls


def nvml_handle() -> tuple[Any, Any]:
    """Return ``(pynvml, handle)`` of PyTorch's current device; raise where NVML cannot be used."""
    try:
        import pynvml
    except ImportError as error:
        raise KernelRequirementError("energy: the package nvidia-ml-py (pynvml) is not installed") from error
    pynvml.nvmlInit()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    uuid = str(properties.uuid)
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def measure_energy(runner: Runner, window_s: float = MINIMUM_WINDOW_S, settle_s: float = 0.4) -> EnergyReading:
    """Run ``runner`` without a pause and read its energy over a window of at least ``window_s`` seconds.

    The first ``settle_s`` seconds bring clocks and power to their steady state and are not counted.
    """
    if window_s < MINIMUM_WINDOW_S:
        raise KernelRequirementError(f"energy: window_s is {window_s}, must be at least {MINIMUM_WINDOW_S}")
    pynvml, handle = nvml_handle()

    def counter_j() -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3

    queue = _Queue(runner, _replays_per_batch(runner))
    start = _next_tick(queue, counter_j, time.perf_counter() + settle_s)
    stop = _next_tick(queue, counter_j, start[0] + window_s - 0.05)
    torch.cuda.synchronize()
    calls = (stop[2] - start[2]) * queue.replays * runner.calls
    return EnergyReading(stop[1] - start[1], stop[0] - start[0], calls)


class _Queue:
    """Keeps a few batches of replays in flight and counts the finished ones."""

    def __init__(self, runner: Runner, replays: int) -> None:
        self.runner, self.replays, self.finished = runner, replays, 0
        self.pending: deque[Any] = deque()

    def advance(self) -> None:
        while len(self.pending) < _QUEUED_BATCHES:
            for _ in range(self.replays):
                self.runner.replay()
            event = torch.cuda.Event()
            event.record()
            self.pending.append(event)
        while self.pending and self.pending[0].query():
            self.pending.popleft()
            self.finished += 1


def _next_tick(queue: _Queue, counter_j: Callable[[], float], not_before_s: float) -> tuple[float, float, int]:
    """Advance until the counter moves after ``not_before_s``; return time, joules, finished batches."""
    while time.perf_counter() < not_before_s:
        queue.advance()
    before = counter_j()
    while True:
        queue.advance()
        now_j = counter_j()
        if now_j != before:
            return time.perf_counter(), now_j, queue.finished


def _replays_per_batch(runner: Runner) -> int:
    runner.replay()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    runner.replay()
    torch.cuda.synchronize()
    return max(1, round(BATCH_S / max(time.perf_counter() - begin, 1e-6)))
