"""Measure a layer of the TwELL paper in an eager framework: forward, training step, head, optimizer; kernel by kernel.

    python -m calibration.kernels.bench_eager_layer OUT [--seconds 150] [--parts forward,training,...] [--smoke]

writes OUT/eager_layer.csv (time, sustained time and watts, memory of each case) and OUT/eager_passes.csv (the kernels
of each case by the pass that launched them, under the names of the model's tasks). Calls are launched from Python, as
an eager framework does. A file is written anew after every case; a case that fails is printed and left out; no case is
begun after `--seconds`. `--smoke` tries everything on tiny shapes, on a CPU with TRITON_INTERPRET=1 too.

Forward: 64 and 8 sequences of 2048 tokens, no gradients. Training: one layer's forward and backward with gradients
added to those of the micro-batch before; `peak_mb` beyond parameters, gradients and input; `kept_mb` what is allocated
between forward and backward, output included. Head: embedding, final norm, tied head and fp32 cross entropy, which is a
whole model without layers. Optimizer: one layer's parameters. `sustained_us` is timed by events after the window that
`power_w` comes from: the window counts whole calls, 2 % of it each where one takes 40 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from calibration.kernels.eager_cases import (
    STREAMS,
    Sizes,
    Step,
    Stream,
    check,
    head_step,
    make_layer,
    mean_nnz,
    optimizer_calls,
    tiny,
    training_step,
    without_gradients,
)
from calibration.kernels.eager_layer import EagerLayer, Hidden, traced
from calibration.kernels.kernel_trace import passes
from sparsesim.kernels.common.energy import measure_energy
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.common.timing import Runner, Timing, eager, time_runners

Labels = dict[str, Any]
Call = Callable[[], object]


@dataclass
class Session:
    """What was measured so far, and where it is written."""

    out: Path
    sizes: Sizes
    header: Mapping[str, str]
    until: float
    cases: dict[str, Labels] = field(default_factory=dict)
    kernels: list[Labels] = field(default_factory=list)

    def add(self, labels: Labels, **values: Any) -> None:
        """Values of a case, beside those it has."""
        self.cases.setdefault(labels["case"], dict(labels)).update(values)
        print(labels["case"], {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()}, flush=True)
        self.write()

    def trace(self, labels: Labels, call: Call, state: str = "burst") -> None:
        """Kernels of a case, and their sums beside its time."""
        rows = passes(call)
        self.kernels += [{"case": labels["case"], "state": state, **row} for row in rows]
        lost = [row for row in rows if row["pass"] == "unattributed"]
        sums = {"kernels_us": float(sum(row["total_us"] for row in rows)), "launches": sum(r["calls"] for r in rows),
                "unattributed_us": float(sum(row["total_us"] for row in lost))}  # fmt: skip
        self.add(labels, **{name if state == "burst" else f"{state}_{name}": value for name, value in sums.items()})

    def write(self) -> None:
        """Both files."""
        what = "a layer of an eager framework"
        write_csv(self.out / "eager_layer.csv", {"what": what, **self.header}, self.cases.values())
        write_csv(self.out / "eager_passes.csv", {"what": f"{what}, kernel by kernel", **self.header}, self.kernels)


# ------------------------------------------------------------------------------------------------------- measuring


def timed(runners: Mapping[str, Runner]) -> dict[str, Labels]:
    """Columns of burst times, interleaved; on a CPU one call each."""
    if torch.cuda.is_available():
        timings = time_runners(runners, samples=9, sample_s=1e-2)
    else:
        timings = {name: _on_host(runner) for name, runner in runners.items()}
    return {
        name: {"time_us": t.median_s * 1e6, "minimum_us": t.minimum_s * 1e6, "spread": t.spread, "samples": t.samples,
               "calls_per_sample": t.calls_per_sample}
        for name, t in timings.items()
    }  # fmt: skip


def _on_host(runner: Runner) -> Timing:
    began = time.perf_counter()
    runner.replay()
    seconds = time.perf_counter() - began
    return Timing(seconds, seconds, 0.0, 1, 1, "cpu")


def sustained(call: Call) -> Labels:
    """Columns of a window of 2 s and of the calls that follow it."""
    if not torch.cuda.is_available():
        return {"sustained_us": 0.0}
    reading = measure_energy(eager([call]))
    timing = time_runners({"call": eager([call])}, samples=3, sample_s=0.15, warm_s=0.05)["call"]
    return {"sustained_us": timing.median_s * 1e6, "power_w": reading.power_w, "window_s": reading.duration_s,
            "window_us": reading.call_s * 1e6, "energy_mj": reading.power_w * timing.median_s * 1e3}  # fmt: skip


def memory(step: Step) -> Labels:
    """MB beyond what is there before a step: at its peak, and between forward and backward."""
    if not torch.cuda.is_available():
        return {}
    step()
    step.drop()
    before = torch.cuda.memory_allocated()
    out = step.forward()
    kept = torch.cuda.memory_allocated()
    out.backward(step.gradient)
    del out
    step.drop()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    return {"kept_mb": (kept - before) / 1e6, "peak_mb": (torch.cuda.max_memory_allocated() - before) / 1e6}


def rest() -> None:
    """Free what the last case held, and let the board's power come down."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        time.sleep(0.15)


def guarded(measure: Call) -> Iterator[None]:
    """One case; a failure is printed and the next one is taken."""
    try:
        measure()
    except Exception:
        traceback.print_exc()
    yield


# ---------------------------------------------------------------------------------------------------------- blocks


def forward_layers(sizes: Sizes, sequences: int) -> list[tuple[Labels, EagerLayer]]:
    """Every variant of the forward that works."""
    first, tokens = sizes.nnz[0], sequences * sizes.tokens
    kinds: tuple[Hidden, ...] = ("dense_eager", "dense_fused", "twell", "hot_cold")
    chosen: list[tuple[Hidden, int]] = [(hidden, first) for hidden in kinds]
    chosen += [("twell", nnz) for nnz in sizes.nnz[1:]] + [("dense_eager", nnz) for nnz in sizes.busy]
    layers = []
    for hidden, nnz in chosen:
        labels = {"case": f"forward {tokens} {hidden} {nnz}", "kind": "forward", "tokens": tokens, "stream": "plain",
                  "ffn": hidden, "nnz": nnz}  # fmt: skip
        try:
            layer = make_layer(sizes, nnz, hidden)
            without_gradients(layer, sizes.entry(1, "plain"))()
            layers.append((labels, layer))
        except Exception:
            traceback.print_exc()
    return layers


def measure_forward(session: Session) -> Iterator[None]:
    """Burst times of all variants in turn, then the kernels of each."""
    for sequences in session.sizes.forward:
        layers, x = forward_layers(session.sizes, sequences), session.sizes.entry(sequences, "plain")
        timings = timed({labels["case"]: eager([without_gradients(layer, x)]) for labels, layer in layers})
        for labels, layer in layers:
            session.add(labels, nnz_found=mean_nnz(layer, x), **timings[labels["case"]])
        yield
        for labels, layer in layers:
            rest()
            without_gradients(layer, x)()
            call = without_gradients(layer, x, traced)
            yield from guarded(lambda labels=labels, call=call: session.trace(labels, call))
        del layers, x
        rest()


def measure_sustained(session: Session) -> Iterator[None]:
    """Windows of the forward; of the larger batch every variant, and the kernels at the clocks of its window."""
    for sequences in session.sizes.forward:
        large, x = sequences == session.sizes.forward[0], session.sizes.entry(sequences, "plain")
        for labels, layer in forward_layers(session.sizes, sequences):
            if not large and (labels["nnz"] != session.sizes.nnz[0] or labels["ffn"] == "hot_cold"):
                continue
            session.add(labels, **sustained(without_gradients(layer, x)))
            if large and labels["ffn"] in ("dense_eager", "twell"):
                session.trace(labels, without_gradients(layer, x, traced), "hot")
            yield
        rest()


def step_labels(sizes: Sizes, kind: str, micro_batch: int, of: Stream) -> Labels:
    """What identifies a step."""
    return {"case": f"{kind} {micro_batch} {of}", "kind": kind, "tokens": micro_batch * sizes.tokens, "stream": of}


def training_cases(sizes: Sizes) -> Iterator[tuple[Labels, Callable[[], Step]]]:
    """Labels and maker of every layer's step, the likeliest first."""
    kinds: tuple[Hidden, ...] = ("dense_eager", "sparse_train")
    first, large = sizes.nnz[0], sizes.micro_batches[0]
    cases = [(size, hidden, first, of) for size in sizes.micro_batches for of in STREAMS for hidden in kinds]
    cases += [(large, kinds[1], nnz, STREAMS[0]) for nnz in sizes.nnz[1:]]
    for size, hidden, nnz, of in cases:
        labels = step_labels(sizes, "training", size, of)
        labels |= {"case": f"{labels['case']} {hidden} {nnz}", "ffn": hidden, "nnz": nnz}
        yield labels, lambda case=(size, hidden, nnz, of): training_step(sizes, *case)


def measure_step(session: Session, labels: Labels, make: Callable[[], Step]) -> None:
    """Memory, burst time and kernels of a step."""
    step = make()
    session.add(labels, **memory(step))
    session.add(labels, **timed({"step": eager([step])})["step"])
    rest()
    step()
    session.trace(labels, step.traced)


def measure_training(session: Session) -> Iterator[None]:
    """One layer's forward and backward."""
    for labels, make in training_cases(session.sizes):
        yield from guarded(lambda labels=labels, make=make: measure_step(session, labels, make))
        rest()


def measure_sustained_training(session: Session) -> Iterator[None]:
    """Windows of the largest micro-batch."""
    sizes = session.sizes
    for labels, make in training_cases(sizes):
        if labels["tokens"] == sizes.micro_batches[0] * sizes.tokens and labels["nnz"] == sizes.nnz[0]:
            yield from guarded(lambda labels=labels, make=make: session.add(labels, **sustained(make())))
            rest()


def measure_head(session: Session) -> Iterator[None]:
    """The model without layers."""
    sizes = session.sizes
    for micro_batch in sizes.micro_batches[:2]:
        for of in STREAMS:
            labels = step_labels(sizes, "head", micro_batch, of)
            make = lambda case=(micro_batch, of): head_step(sizes, *case)  # noqa: E731
            yield from guarded(lambda labels=labels, make=make: measure_step(session, labels, make))
            rest()


def measure_optimizer(session: Session) -> Iterator[None]:
    """Gradients added up, clipped and cleared, the update, and the bf16 copy, of one layer."""
    parts = make_layer(session.sizes, session.sizes.nnz[0], "dense_eager").parts
    parameters = sum(one.numel() for one in parts.all())
    for name, call in optimizer_calls(parts).items():
        labels = {"case": f"optimizer {name}", "kind": "optimizer", "parameters": parameters}
        yield from guarded(lambda labels=labels, call=call: measure_update(session, labels, call))


def measure_update(session: Session, labels: Labels, call: Call) -> None:
    """Time and kernels of a pass over parameters."""

    def spanned() -> None:
        with traced(labels["case"].replace(" ", ".", 1)):
            call()

    call()
    session.add(labels, **timed({"call": eager([call])})["call"])
    session.trace(labels, spanned)


BLOCKS: dict[str, Callable[[Session], Iterator[None]]] = {
    "forward": measure_forward,
    "training": measure_training,
    "sustained": measure_sustained,
    "head": measure_head,
    "optimizer": measure_optimizer,
    "sustained_training": measure_sustained_training,
}


# --------------------------------------------------------------------------------------------------------- running


def warm(index: int) -> None:
    """Compile one kind's kernels, so that several processes share the work."""
    sizes = Sizes(tokens=256)
    kinds: tuple[Hidden, ...] = ("dense_fused", "twell", "hot_cold")
    if index < len(kinds):
        without_gradients(make_layer(sizes, 29, kinds[index]), sizes.entry(1, "plain"))()
    else:
        training_step(sizes, 1, "sparse_train", 29, "plain")()
    torch.cuda.synchronize()


def warm_compilers(workers: int = 4) -> None:
    """Compile all kernels in parallel processes."""
    command = [sys.executable, "-m", "calibration.kernels.bench_eager_layer", "unused", "--warm"]
    for process in [subprocess.Popen([*command, str(index)]) for index in range(workers)]:
        process.wait()


def checked(sizes: Sizes) -> str:
    """Errors of the layers, for the header; where a layer is wrong, what was wrong."""
    try:
        return str({name: f"{error:.2g}" for name, error in check(sizes).items()})
    except Exception as error:
        traceback.print_exc()
        return f"failed: {error}"


def measure(session: Session, blocks: list[str]) -> None:
    """Every block, case by case, until the time is over."""
    for name in blocks:
        began = time.monotonic()
        try:
            for _ in BLOCKS[name](session):
                if time.monotonic() > session.until:
                    print(f"stopped in {name}: out of time", flush=True)
                    return
        except Exception:
            traceback.print_exc()
        rest()
        print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)


def main() -> None:
    """Parse the command line, check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the CSV files")
    parser.add_argument("--parts", default=",".join(BLOCKS), help=f"of {', '.join(BLOCKS)}")
    parser.add_argument("--seconds", type=float, default=150.0, help="begin no new case after this long")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a CPU where there is no GPU")
    parser.add_argument("--warm", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    began, gpu = time.monotonic(), torch.cuda.is_available()
    if arguments.warm is not None:
        warm(arguments.warm)
        return
    sizes = tiny("cuda" if gpu else "cpu") if arguments.smoke else Sizes()
    if not arguments.smoke:
        warm_compilers()
    print(f"compiled after {time.monotonic() - began:.1f} s", flush=True)
    command = "python -m calibration.kernels.bench_eager_layer OUT"
    header = {"command": command, "device": "cpu"} if not gpu else provenance("", command)
    header = {"check": checked(sizes), **{key: value for key, value in header.items() if key != "what"}}
    print(header["check"], f"after {time.monotonic() - began:.1f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(Session(arguments.out, sizes, header, began + arguments.seconds), arguments.parts.split(","))
    print(f"done after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
