"""Figures of the device itself: power when idle and when held ready, launch overhead in and out of CUDA graphs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench, GpuBench
from sparsesim.calibrate.measure.probe import Probe
from sparsesim.calibrate.measure.suite import Suite
from sparsesim.calibrate.measure.table import Table
from sparsesim.errors import InputError
from sparsesim.kernels.common.timing import captured, eager

_LAUNCHES = 2000
_REPEATS = 7
_TRICKLE_S = 2e-3


@dataclass(frozen=True, slots=True)
class Quantity:
    """Samples of one figure of the device, and what was done meanwhile."""

    unit: str
    values: Sequence[float]
    condition: str


NAMES = ("quantity", "value", "unit", "spread", "samples", "condition", "clock_mhz", "temperature_c")


def before_context() -> dict[str, Quantity]:
    """Power of a device that no process holds: must come before this process touches CUDA.

    Raises:
        InputError: CUDA is in use already.

    """
    if torch.cuda.is_initialized():
        raise InputError("idle power is measured before the process opens a CUDA context; start a new one")
    probe = Probe.by_index(0)
    time.sleep(2.0)
    watts = [probe.mean_power_w(1.0) for _ in range(2)]
    condition = f"no CUDA context, {probe.state().clock_mhz:g} MHz"
    memory = probe.memory_w()
    idle = {"idle_power_w": Quantity("W", watts, condition)}
    return idle if memory is None else idle | {"idle_memory_power_w": Quantity("W", [memory], condition)}


def measure(suite: Suite, bench: Bench, path: Path, bare: Mapping[str, Quantity]) -> None:
    """Write the suite's quantities, those that the table lacks; `bare` from `before_context`.

    Raises:
        InputError: an unknown quantity, or no CUDA device.

    """
    known = [*BARE, *QUANTITIES]
    unknown = [name for name in suite.quantities if name not in known]
    if unknown:
        raise InputError(f"suite {suite.name}: no quantity {unknown[0]!r}; there are: {', '.join(known)}")
    if not isinstance(bench, GpuBench):
        raise InputError(f"suite {suite.name}: its quantities are measured on a CUDA device only")
    table = Table(path, NAMES, bench.provenance(suite.name))
    done = {row["quantity"] for row in table.rows()}
    for name in suite.quantities:
        if name in done or (name in BARE and name not in bare):
            continue
        quantity = bare[name] if name in bare else QUANTITIES[name](bench)
        table.append(cells(name, quantity) | ({} if name in bare else _state(bench)))
        print(f"{suite.name}: {name}", file=sys.stderr, flush=True)


def cells(name: str, quantity: Quantity) -> dict[str, str]:
    """A quantity's row: median, interquartile range over median."""
    median = statistics.median(quantity.values)
    low, _, high = statistics.quantiles(quantity.values, n=4) if len(quantity.values) > 1 else (median,) * 3
    return {
        "quantity": name,
        "value": f"{median:.6g}",
        "unit": quantity.unit,
        "spread": f"{(high - low) / median:.4g}",
        "samples": str(len(quantity.values)),
        "condition": quantity.condition,
    }


def _state(bench: GpuBench) -> dict[str, str]:
    state = bench.state()
    return {"clock_mhz": f"{state.clock_mhz:g}", "temperature_c": f"{state.temperature_c:g}"}


def _held(bench: GpuBench) -> Quantity:
    """Nothing runs, but a process holds the device: a context exists, its memory is full of buffers."""
    torch.cuda.synchronize()
    time.sleep(4.0)
    return Quantity("W", [bench.probe.mean_power_w(1.0) for _ in range(2)], "CUDA context, nothing run for 4 s")


def _after_work(bench: GpuBench) -> Quantity:
    """The first seconds after work, before the clocks fall."""
    values = []
    for _ in range(2):
        _work(0.6)
        time.sleep(0.3)
        values.append(bench.probe.mean_power_w(1.0))
    return Quantity("W", values, "0.3 to 1.3 s after 0.6 s of matrix products, clocks still up")


def _active_idle(bench: GpuBench) -> Quantity:
    """Held ready: an empty step every 2 ms keeps the clocks up."""
    _work(0.6)
    stop = time.perf_counter() + 2.9
    x = torch.zeros(32, device="cuda")
    values = []
    time.sleep(0.5)
    start_s, start_j = bench.probe.next_tick()
    while time.perf_counter() < stop:
        x.add_(1.0)
        time.sleep(_TRICKLE_S)
        now_s = time.perf_counter()
        if now_s - start_s >= 1.0:
            tick_s, tick_j = bench.probe.next_tick()
            values.append((tick_j - start_j) / (tick_s - start_s))
            start_s, start_j = tick_s, tick_j
    return Quantity("W", values, "one tiny kernel every 2 ms, clocks up")


def _work(seconds: float) -> None:
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for _ in range(8):
            torch.mm(x, x)
        torch.cuda.synchronize()


def _per_launch(work: Callable[[], Any], launches: int) -> list[float]:
    """Seconds a launch by the host's clock, synchronised at the end of each round."""
    seconds = []
    for _ in range(_REPEATS + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begin) / launches)
    return seconds[1:]


def _tiny(count: int) -> list[Callable[[], Any]]:
    x = torch.zeros(32, device="cuda")
    return [lambda: x.add_(1.0)] * count


def _eager_launch(_: GpuBench) -> Quantity:
    runner = eager(_tiny(_LAUNCHES))
    return Quantity(
        "s", _per_launch(runner.replay, _LAUNCHES), f"{_LAUNCHES} PyTorch calls of one tiny kernel, from Python"
    )


def _graph_kernel(_: GpuBench) -> Quantity:
    runner = captured(_tiny(_LAUNCHES), warm_ups=1)
    return Quantity("s", _per_launch(runner.replay, _LAUNCHES), f"tiny kernels in a chain, one graph of {_LAUNCHES}")


def _graph_replay(_: GpuBench) -> Quantity:
    runner = captured(_tiny(1))
    work = eager([runner.replay] * 500)
    return Quantity("s", _per_launch(work.replay, 500), "replays of a graph of one tiny kernel, back to back")


def _graph_round_trip(_: GpuBench) -> Quantity:
    runner = captured(_tiny(1))

    def work() -> None:
        for _ in range(100):
            runner.replay()
            torch.cuda.synchronize()

    return Quantity("s", _per_launch(work, 100), "replay of a graph of one tiny kernel and waiting for it")


def _eager_round_trip(_: GpuBench) -> Quantity:
    call = _tiny(1)[0]

    def work() -> None:
        for _ in range(100):
            call()
            torch.cuda.synchronize()

    return Quantity("s", _per_launch(work, 100), "one tiny kernel from Python and waiting for it")


def _gap(bench: GpuBench) -> Quantity:
    """Between dependent kernels of a graph: a chain of passes as one graph less the same bytes in one pass each.

    The passes go far beyond the L2, so that ramp-up and drain of consecutive kernels count.
    """
    sizes = (1 << 27, 1 << 29)
    buffers = [torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in sizes]
    values = []
    for _ in range(3):
        small, large = (bench.time({"add": [partial(x.add_, 1.0)] * 4}, True)["add"].median_s for x in buffers)
        values.append((4 * small - large) / 3)
    return Quantity("s", values, "(4 passes over 256 MB - one over 1 GB) / 3: launch, ramp-up and drain of one kernel")


BARE = ("idle_power_w", "idle_memory_power_w")
QUANTITIES: dict[str, Callable[[GpuBench], Quantity]] = {
    "held_power_w": _held,
    "after_work_power_w": _after_work,
    "active_idle_power_w": _active_idle,
    "eager_launch_s": _eager_launch,
    "graph_kernel_s": _graph_kernel,
    "graph_replay_s": _graph_replay,
    "graph_round_trip_s": _graph_round_trip,
    "eager_round_trip_s": _eager_round_trip,
    "kernel_ramp_s": _gap,
}
"""By name: how each is measured with a context; those of BARE come before it."""
