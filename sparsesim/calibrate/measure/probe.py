"""Readings of the device while it works: clock, temperature, power of board and memory, the energy counter."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

from sparsesim.kernels.common.energy import nvml_handle

_PERIOD_S = 0.05
"""Between two power readings of a window."""


@dataclass(frozen=True, slots=True)
class State:
    """Clock of the multiprocessors and temperature of the chip."""

    clock_mhz: float
    temperature_c: float


@dataclass(frozen=True, slots=True)
class Load:
    """Means over the second half of a window of work; `memory_w` is None where the board does not tell."""

    clock_mhz: float
    temperature_c: float
    memory_w: float | None


class Probe:
    """NVML readings of one device, by default PyTorch's current one."""

    def __init__(self, handle: tuple[Any, Any] | None = None) -> None:
        self._nvml, self._handle = handle or nvml_handle()

    @classmethod
    def by_index(cls, index: int) -> Probe:
        """By NVML's index, without opening a CUDA context."""
        import pynvml

        pynvml.nvmlInit()
        return cls((pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)))

    def state(self) -> State:
        """Clock and temperature now."""
        n, h = self._nvml, self._handle
        clock = float(n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM))
        return State(clock, float(n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)))

    def energy_j(self) -> float:
        """The board's energy counter; it moves every 100 ms."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1e-3

    def memory_w(self) -> float | None:
        """Power of the memory (NVML scope MEMORY), where the board tells."""
        n = self._nvml
        field: Any = (n.NVML_FI_DEV_POWER_AVERAGE, n.NVML_POWER_SCOPE_MEMORY)
        value = n.nvmlDeviceGetFieldValues(self._handle, [field])[0]
        return float(value.value.uiVal) * 1e-3 if value.nvmlReturn == 0 else None

    def next_tick(self) -> tuple[float, float]:
        """Wait until the energy counter moves; its time (perf_counter) and joules."""
        before = self.energy_j()
        while (now_j := self.energy_j()) == before:
            time.sleep(5e-4)
        return time.perf_counter(), now_j

    def mean_power_w(self, window_s: float) -> float:
        """Mean board power over a window between two ticks, while the caller's thread waits."""
        start_s, start_j = self.next_tick()
        time.sleep(max(window_s - 0.05, 0.0))
        stop_s, stop_j = self.next_tick()
        return (stop_j - start_j) / (stop_s - start_s)


class Watch:
    """Reads a probe from a thread while a block of code works: `with Watch(probe) as watch: ...; watch.load()`."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._readings: list[tuple[State, float | None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def load(self) -> Load:
        """Means over the second half of the readings: NVML's power lags about a second behind."""
        half = self._readings[len(self._readings) // 2 :]
        memory = [w for _, w in half if w is not None]
        return Load(
            statistics.fmean(s.clock_mhz for s, _ in half),
            statistics.fmean(s.temperature_c for s, _ in half),
            statistics.fmean(memory) if memory else None,
        )

    def _read(self) -> None:
        while True:
            self._readings.append((self._probe.state(), self._probe.memory_w()))
            if self._stop.wait(_PERIOD_S):
                return
