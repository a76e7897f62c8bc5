"""Timing of GPU work: captured graphs, buffers rotated past the L2, variants interleaved, medians with
spread.

A *runner* performs a fixed list of calls once, normally as one replay of a CUDA graph that holds the same
kernel on several buffer sets, so that neither launch gaps nor the L2 hide what a call costs.
``time_runners`` times several runners in turn, round after round, so that clock and temperature drift falls
on all of them alike.

    runner = captured([lambda i=i: ffn(inputs[i]) for i in range(rotations(bytes_per_call))])
    timings = time_runners({"sparse": runner, "dense": other})
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], object]

L2_FACTOR = 3
"""Buffer sets together hold at least this many times the L2, so that a set has left it when it comes round.
"""


@dataclass(frozen=True)
class Runner:
    """Performs ``calls`` calls each time ``replay`` is called; ``mode`` is ``graph`` or ``eager``."""

    replay: Call
    calls: int
    mode: str
    keep: Any = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median over ``samples`` samples, each a mean over ``calls_per_sample`` calls.

    ``spread`` is the interquartile range over the median.
    """

    median_s: float
    minimum_s: float
    spread: float
    samples: int
    calls_per_sample: int
    mode: str


def rotations(bytes_per_call: float, most: int = 64) -> int:
    """Number of buffer sets to rotate so that together they exceed the L2 ``L2_FACTOR`` times (1 to
    ``most``).
    """
    device = torch.cuda.current_device()
    l2_bytes = float(torch.cuda.get_device_properties(device).L2_cache_size)
    return max(1, min(most, math.ceil(L2_FACTOR * l2_bytes / max(bytes_per_call, 1.0)) + 1))


def eager(calls: Sequence[Call]) -> Runner:
    """A runner that issues the calls one by one from Python."""

    def replay() -> None:
        for call in calls:
            call()

    return Runner(replay, len(calls), "eager")


def captured(calls: Sequence[Call], warm_ups: int = 2) -> Runner:
    """A runner that replays one CUDA graph holding all the calls; each call is first run ``warm_ups`` times.

    Work that synchronises with the host cannot be captured and raises PyTorch's error.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [call() for call in calls]
    return Runner(graph.replay, len(calls), "graph", keep=(graph, outputs, list(calls)))


def time_runners(
    runners: Mapping[str, Runner], samples: int = 15, sample_s: float = 3e-3, warm_s: float = 0.02
) -> dict[str, Timing]:
    """Time every runner by CUDA events, interleaved: ``samples`` rounds of one sample of each.

    A sample holds as many replays as last about ``sample_s`` seconds. Before the rounds every runner runs
    about ``warm_s`` seconds.
    """
    replays = {name: _replays_for(runner, sample_s, warm_s) for name, runner in runners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(samples):
        for name, runner in runners.items():
            seconds[name].append(_elapsed_s(runner, replays[name]) / (replays[name] * runner.calls))
    return {
        name: _summary(seconds[name], replays[name] * runner.calls, runner.mode) for name, runner in runners.items()
    }


def time_calls(calls: Sequence[Call], samples: int = 15, sample_s: float = 3e-3) -> Timing:
    """Time one list of calls as a captured graph."""
    return time_runners({"call": captured(calls)}, samples, sample_s)["call"]


def _replays_for(runner: Runner, sample_s: float, warm_s: float) -> int:
    runner.replay()
    once_s = max(_elapsed_s(runner, 1), 1e-7)
    once_s = max(_elapsed_s(runner, max(1, int(warm_s / once_s))) / max(1, int(warm_s / once_s)), 1e-7)
    return max(1, round(sample_s / once_s))


def _elapsed_s(runner: Runner, replays: int) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(replays):
        runner.replay()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3


def _summary(seconds: list[float], calls_per_sample: int, mode: str) -> Timing:
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (median, median, median)
    return Timing(median, min(seconds), (high - low) / median, len(seconds), calls_per_sample, mode)
