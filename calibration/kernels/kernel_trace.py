"""Kernels of a call by the pass that launched them: what PyTorch's profiler wrote, read pass by pass.

A kernel is tied to its launch by the trace's correlation number, the launch to the operators and spans that were open
on its thread at that time. In a backward the autograd node carries the sequence number of the forward operator that
made it, and with it the span of that operator. A trace without kernels (CPU) takes the innermost operators for them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from calibration.kernels.eager_layer import SPAN

NODE = "autograd::engine::evaluate_function: "
ACCUMULATE = "torch::autograd::AccumulateGrad"
LAUNCHES = ("cuda_runtime", "cuda_driver")
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
NAME_LENGTH = 110

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Launch:
    """One kernel: `pass_name` and `phase` say which pass of the model it belongs to, `op` the operator it came from."""

    phase: str
    pass_name: str
    op: str
    kernel: str
    us: float


@dataclass(frozen=True)
class Frame:
    """An open operator or span on a thread."""

    name: str
    end: float
    is_span: bool
    sequence: int | None


def passes(call: Callable[[], object], repeats: int = 3) -> list[dict[str, Any]]:
    """Kernels of one call: one row per phase, pass, operator and kernel, times in us, in order of first launch."""
    grouped: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for launch in launches(_trace(call, repeats)):
        grouped[launch.phase, launch.pass_name, launch.op, launch.kernel].append(launch.us)
    return [
        {
            **dict(zip(("phase", "pass", "op", "kernel"), key, strict=True)),
            "calls": len(times) / repeats,
            "mean_us": sum(times) / len(times),
            "total_us": sum(times) / repeats,
        }
        for key, times in grouped.items()
    ]


def _trace(call: Callable[[], object], repeats: int) -> list[Event]:
    """Events of the profiler over `repeats` calls."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        for _ in range(repeats):
            call()
        if cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found: list[Event] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return found


def launches(events: Sequence[Event]) -> list[Launch]:
    """Kernels of a trace with the pass of each, in order of launch."""
    spans: dict[int, str] = {}
    found: list[tuple[tuple[Frame, ...], str, float]] = []
    kernels = {_correlation(e): e for e in events if e.get("cat") in KERNELS}
    for event, stack in _walk(events):
        category = event["cat"]
        if category == "cpu_op" and not _node(stack) and stack[-1].sequence is not None:
            spans[stack[-1].sequence] = _span(stack)
        if kernels and category in LAUNCHES and _correlation(event) in kernels:
            kernel = kernels.pop(_correlation(event))
            found.append((stack, short(kernel["name"]), float(kernel["dur"])))
        elif category == "leaf":
            found.append((stack, "", float(event["dur"])))
    lost = [Launch("", "unattributed", "", short(e["name"]), float(e["dur"])) for e in kernels.values()]
    return [_launch(stack, kernel, us, spans) for stack, kernel, us in found] + lost


def _launch(stack: tuple[Frame, ...], kernel: str, us: float, spans: Mapping[int, str]) -> Launch:
    node = _node(stack)
    operators = [frame.name for frame in stack if not frame.is_span]
    innermost = operators[-1] if operators else ""
    if node is None:
        return Launch("forward", _span(stack), innermost, kernel, us)
    name = node.name.removeprefix(NODE)
    if name == ACCUMULATE:
        return Launch("backward", "accumulate", innermost, kernel, us)
    pass_name = spans.get(-1 if node.sequence is None else node.sequence, "unattributed")
    op = name if innermost in (name, node.name) else f"{name}/{innermost}"
    return Launch("backward", pass_name, op, kernel, us)


def _walk(events: Sequence[Event]) -> Iterator[tuple[Event, tuple[Frame, ...]]]:
    """Operators and launches, thread by thread in order of time, each with what is open around it (itself included).

    Where a trace has no launches, an operator without operators inside comes again as a `leaf`.
    """
    on_host = ("cpu_op", "user_annotation", *LAUNCHES)
    host_only = not any(e.get("cat") in KERNELS for e in events)
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in on_host:
            threads[event["pid"], event["tid"]].append(event)
    for own in threads.values():
        own.sort(key=lambda e: (e["ts"], -e["dur"]))
        stack: list[Frame] = []
        for event, following in zip(own, [*own[1:], None], strict=True):
            while stack and stack[-1].end <= event["ts"]:
                stack.pop()
            if event["cat"] not in LAUNCHES:
                stack.append(_frame(event))
            yield event, tuple(stack)
            inside = following is not None and following["ts"] < event["ts"] + event["dur"]
            if host_only and event["cat"] == "cpu_op" and not inside:
                yield {**event, "cat": "leaf"}, tuple(stack)


def _frame(event: Event) -> Frame:
    sequence = event.get("args", {}).get("Sequence number")
    is_span = event["cat"] == "user_annotation"
    return Frame(event["name"], event["ts"] + event["dur"], is_span, None if sequence is None else int(sequence))


def _node(stack: Sequence[Frame]) -> Frame | None:
    """The autograd node that is being evaluated, if any."""
    return next((frame for frame in stack if frame.name.startswith(NODE)), None)


def _span(stack: Sequence[Frame]) -> str:
    """The innermost span of the layer."""
    names = [frame.name.removeprefix(SPAN) for frame in stack if frame.is_span and frame.name.startswith(SPAN)]
    return names[-1] if names else "unattributed"


def _correlation(event: Event) -> int:
    return int(event.get("args", {}).get("correlation", -1))


def short(name: str) -> str:
    """A kernel's name without what every name of PyTorch's begins with, cut to a column's width."""
    plain = re.sub(r"at::native::|\(anonymous namespace\)::|std::|^void ", "", name)
    return plain.split("(")[0][:NAME_LENGTH] if not plain.startswith("(") else plain[:NAME_LENGTH]
