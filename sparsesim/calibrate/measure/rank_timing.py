"""Timing in step: every rank does the same number of replays, and the slowest rank's time counts."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from sparsesim.calibrate.measure.probe import Probe
from sparsesim.kernels.common.timing import Call, Runner, Timing, eager

_SAMPLES = 9
_SAMPLE_S = 2e-3
_ENERGY_S, _SETTLE_S = 3.0, 0.4


class RankClock:
    """Clock, energy counter and small agreements of one rank; `control` is a group on the hosts."""

    def __init__(self, device: str, control: Any) -> None:
        self.device, self._control = device, control
        if device == "cuda":
            self.probe = Probe()

    @property
    def place(self) -> torch.device:
        """Where this rank's tensors lie."""
        return torch.device(self.device, torch.cuda.current_device()) if self.device == "cuda" else torch.device("cpu")

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def largest(self, value: float) -> float:
        """The largest of the ranks' values."""
        return max(self._all(value))

    def runner(self, calls: Sequence[Call], graph: bool) -> Runner:
        """All calls as one captured graph, or one by one; on a host always one by one."""
        for _ in range(2):
            for call in calls:
                call()
        if self.device == "cpu" or not graph:
            return eager(calls)
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, capture_error_mode="thread_local"):
            for call in calls:
                call()
        return Runner(captured.replay, len(calls), "graph", keep=(captured, list(calls)))

    def time(self, runner: Runner) -> Timing:
        """Median over samples of the slowest rank's seconds a call."""
        self._elapsed_s(runner, 1)
        replays = self.share(max(1, round(_SAMPLE_S / max(self._elapsed_s(runner, 2) / 2, 1e-7))))
        calls = replays * runner.calls
        seconds = [self._elapsed_s(runner, replays) / calls for _ in range(_SAMPLES)]
        low, median, high = statistics.quantiles(seconds, n=4)
        return Timing(median, min(seconds), (high - low) / median, _SAMPLES, calls, runner.mode)

    def energy(self, runner: Runner, call_s: float) -> dict[str, float | int | str | None]:
        """Sustained work of a fixed number of replays; watts between ticks of the counter inside it."""
        replays = self.share(max(1, round(_ENERGY_S / (call_s * runner.calls))))
        ticks: list[tuple[float, float]] = []
        finished = threading.Event()
        thread = threading.Thread(target=self._collect, args=(ticks, finished), daemon=True)
        self._barrier()
        begin = time.perf_counter()
        thread.start()
        for _ in range(replays):
            runner.replay()
        torch.cuda.synchronize()
        end = time.perf_counter()
        finished.set()
        thread.join()
        inside = [tick for tick in ticks if begin + _SETTLE_S <= tick[0] <= end]
        power_w = (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
        boards_w = self._all(power_w)
        mean_w = statistics.fmean(boards_w)
        sustained_s = self.largest((end - begin) / (replays * runner.calls))
        return {
            "measured_time_s": sustained_s,
            "minimum_time_s": None,
            "spread": None,
            "samples": 1,
            "calls_per_sample": replays * runner.calls,
            "measured_energy_j": mean_w * sustained_s,
            "power_w": mean_w,
            "boards_power_w": ";".join(f"{watts:.6g}" for watts in boards_w),
        }

    def _collect(self, ticks: list[tuple[float, float]], finished: threading.Event) -> None:
        while not finished.is_set():
            ticks.append(self.probe.next_tick())

    def _elapsed_s(self, runner: Runner, replays: int) -> float:
        self._barrier()
        runner.replay()  # a message is where ranks meet: the clock starts at its end, not at the hosts' barrier
        if self.device == "cpu":
            begin = time.perf_counter()
            for _ in range(replays):
                runner.replay()
            return self.largest(time.perf_counter() - begin)
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(replays):
            runner.replay()
        stop.record()
        stop.synchronize()
        return self.largest(float(start.elapsed_time(stop)) * 1e-3)

    def _barrier(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        dist.barrier(self._control)

    def _all(self, value: float) -> list[float]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._control)
        return [float(v) for v in values]
