"""The machine that rows are measured on: buffers, timing, energy windows, provenance.

`GpuBench` is the real one; `CpuBench` has the same methods on the host's clock, so that suites, runners and their
correctness checks can be tried where no GPU is.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sparsesim.calibrate.measure.buffers import Arena
from sparsesim.calibrate.measure.probe import Probe, State, Watch
from sparsesim.kernels.common.energy import measure_energy
from sparsesim.kernels.common.provenance import provenance
from sparsesim.kernels.common.timing import Call, Timing, captured, eager, rotations, time_runners

_MOST_SETS = 192
"""Buffer sets of one row at most: small kernels then still leave the L2 between two uses of a set."""


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """How a row is timed: `samples` samples of about `sample_s` seconds each after `warm_s` seconds of warm-up."""

    samples: int = 7
    sample_s: float = 1.5e-3
    warm_s: float = 3e-3
    window_s: float = 2.0

    def describe(self) -> str:
        """One line for the provenance header."""
        return (
            f"median of {self.samples} samples of about {self.sample_s * 1e3:g} ms after {self.warm_s * 1e3:g} ms of "
            "warm-up, CUDA events around replays of one captured graph; buffer sets rotated past 3x the L2; "
            "spread = interquartile range / median; sustained rows: NVML energy counter over "
            f"{self.window_s:g} s between its ticks after 0.4 s of the same work"
        )


@dataclass(frozen=True, slots=True)
class Energy:
    """Sustained work: seconds and joules of one call, calls in the window, mean power of board and memory, state."""

    call_s: float
    call_j: float
    calls: int
    power_w: float
    memory_w: float | None
    state: State


class Bench(Protocol):
    """What a runner and the session need of a machine."""

    inputs: Arena
    outputs: Arena
    device: str

    def sets(self, call_bytes: float) -> int:
        """Buffer sets to rotate so that none is found in the cache."""

    def time(self, calls: Mapping[str, Sequence[Call]], graph: bool) -> dict[str, Timing]:
        """Time several backends, interleaved."""

    def energy(self, calls: Sequence[Call], graph: bool) -> Energy:
        """Energy of sustained work."""

    def state(self) -> State:
        """Clock and temperature now."""

    def provenance(self, what: str) -> dict[str, str]:
        """Header of a table."""


class GpuBench:
    """The current CUDA device."""

    device = "cuda"

    def __init__(self, plan: TimingPlan, input_gb: float, output_gb: float, seed: int) -> None:
        self.plan = plan
        self.inputs = Arena(int(input_gb * 1e9), "cuda", seed)
        self.outputs = Arena(int(output_gb * 1e9), "cuda", seed + 1)
        self.probe = Probe()

    def sets(self, call_bytes: float) -> int:
        """As many as hold three times the L2."""
        return rotations(call_bytes, _MOST_SETS)

    def time(self, calls: Mapping[str, Sequence[Call]], graph: bool) -> dict[str, Timing]:
        """Time captured graphs, or eager calls, in turn."""
        runners = {name: captured(c) if graph else eager(c) for name, c in calls.items()}
        p = self.plan
        return time_runners(runners, p.samples, p.sample_s, p.warm_s)

    def energy(self, calls: Sequence[Call], graph: bool) -> Energy:
        """One window between ticks of the energy counter."""
        runner = captured(calls) if graph else eager(calls)
        with Watch(self.probe) as watch:
            reading = measure_energy(runner, self.plan.window_s)
        load = watch.load()
        state = State(load.clock_mhz, load.temperature_c)
        return Energy(reading.call_s, reading.call_j, reading.calls, reading.power_w, load.memory_w, state)

    def state(self) -> State:
        """From NVML."""
        return self.probe.state()

    def provenance(self, what: str) -> dict[str, str]:
        """Device, driver, clocks, versions and the protocol."""
        return self.header(what, self.plan)

    @staticmethod
    def header(what: str, plan: TimingPlan) -> dict[str, str]:
        """The same without buffers."""
        header = provenance(what, f"python -m sparsesim.calibrate.measure --suite {what}")
        libraries = {
            "cudnn": str(torch.backends.cudnn.version()),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
        return header | libraries | {"protocol": plan.describe()}


class CpuBench:
    """The host, for trying suites and runners; it cannot measure energy."""

    device = "cpu"

    def __init__(self, plan: TimingPlan, input_gb: float, output_gb: float, seed: int) -> None:
        self.plan = plan
        self.inputs = Arena(int(input_gb * 1e9), "cpu", seed)
        self.outputs = Arena(int(output_gb * 1e9), "cpu", seed + 1)

    def sets(self, call_bytes: float) -> int:
        """Two, so that rotation happens."""
        return 2 if call_bytes > 0 else 1

    def time(self, calls: Mapping[str, Sequence[Call]], graph: bool) -> dict[str, Timing]:
        """Host clock around each pass over the calls."""
        return {name: self._time(c) for name, c in calls.items()}

    def energy(self, calls: Sequence[Call], graph: bool) -> Energy:
        """Not on the host.

        Raises:
            NotImplementedError: always.

        """
        raise NotImplementedError("energy is measured on a CUDA device only")

    def state(self) -> State:
        """Unknown."""
        return State(0.0, 0.0)

    def provenance(self, what: str) -> dict[str, str]:
        """Host and versions."""
        return {
            "what": what,
            "device": f"cpu ({platform.machine()})",
            "power_cap_w": "",
            "torch": torch.__version__,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }

    def _time(self, calls: Sequence[Call]) -> Timing:
        seconds = []
        for _ in range(self.plan.samples):
            begin = time.perf_counter()
            for call in calls:
                call()
            seconds.append((time.perf_counter() - begin) / len(calls))
        median = statistics.median(seconds)
        low, _, high = statistics.quantiles(seconds, n=4)
        return Timing(median, min(seconds), (high - low) / median, len(seconds), len(calls), "host")
