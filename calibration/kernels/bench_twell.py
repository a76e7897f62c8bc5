"""Benchmark of the TwELL kernels: correctness first, then time and energy, as CSV with a provenance header.

    python calibration/kernels/bench_twell.py --out calibration/data/h100-sxm [--parts ffn,decode,training,energy]

Needs a CUDA GPU with torch and triton (and nvcc for the Hopper kernels). Each part writes its own file as soon as it
is measured: twell_ffn.csv, twell_decode.csv, twell_training.csv, twell_energy.csv. ``--seconds`` stops before a new
shape once that much time has passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from sparsesim import laws
from sparsesim.kernels.common.checks import assert_close, poisoned
from sparsesim.kernels.common.energy import measure_energy
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.common.requirements import require_gpu
from sparsesim.kernels.common.timing import Runner, Timing, captured, eager, rotations, time_runners
from sparsesim.kernels.twell import decode, hopper, reference
from sparsesim.kernels.twell.dense import dense_eager, dense_fused
from sparsesim.kernels.twell.ffn import FfnSettings, ffn
from sparsesim.kernels.twell.ffn import Path as FfnPath
from sparsesim.kernels.twell.gate import pack_gate
from sparsesim.kernels.twell.gather import Worklist, up_down
from sparsesim.kernels.twell.synthetic import SyntheticLayer, synthetic_layer, tokens
from sparsesim.kernels.twell.training import sparse_ffn_train
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights

WIDTH, NEURONS = 2048, 5632
SETTINGS = FfnSettings()
PATTERNS = ("zipf", "independent")
FFN_SHAPES = [(rows, nnz) for rows in (16384, 4096, 65536) for nnz in (29, 24, 38)]
MORE_SHAPES = [
    (256, 29),
    (1024, 29),
    *((rows, nnz) for rows in (4096, 16384) for nnz in (1, 50, 65, 80, 108, 282, 2816)),
]
DECODE_TOKENS = (1, 2, 3, 4, 8, 16, 64)
TRAINING_SHAPES = [(16384, 29), (16384, 24), (32768, 29), (32768, 24), (4096, 29)]
PARTS = ("ffn", "decode", "training", "energy")


def make_layer(pattern: str, nnz: float, seed: int = 1) -> SyntheticLayer:
    """A random layer whose gate follows ``pattern`` with ``nnz`` active neurons a token."""
    make = laws.zipf_frequencies if pattern == "zipf" else laws.uniform_frequencies
    law = laws.ActivationLaw(laws.shuffled(make(NEURONS, float(nnz)), 0))
    return synthetic_layer(law, WIDTH, torch.bfloat16, "cuda", seed)


def mean_nnz(x: Any, weights: FfnWeights) -> float:
    """Active neurons per token as measured, in slices so that the gate stays small."""
    active = sum(int((part @ weights.gate.T > 0).sum()) for part in x.split(8192))
    return active / len(x)


def check_ffn(pattern: str) -> dict[str, float]:
    """Relative error of every path on 300 tokens against float32; raises where one exceeds the bound."""
    layer = make_layer(pattern, 29)
    x = tokens(layer, 300, 5)
    exact = reference.ffn(x, layer.weights)
    ordered = layer.weights.by_frequency(layer.law.frequency)
    paths: tuple[FfnPath, ...] = ("dense", "twell", "gate_compact", "gate_pack", "ell", "csr")
    errors: dict[str, float] = {}
    for path in paths:
        errors[path] = assert_close(path, ffn(x, layer.weights, path), exact, x.dtype)
    errors["hot_cold"] = assert_close("hot_cold", ffn(x, ordered, "hot_cold"), exact, x.dtype)
    for count in DECODE_TOKENS:
        errors["decode"] = assert_close("decode", ffn(x[:count], layer.weights, "decode"), exact[:count], x.dtype)
    words = pack_gate(x, layer.weights, SETTINGS.form, SETTINGS.gate)
    work, out = Worklist.empty(300, x.device), poisoned(300, WIDTH, dtype=x.dtype, device="cuda")
    errors["gather"] = assert_close("gather", up_down(x, words, layer.weights, work, out=out), exact, x.dtype)
    return errors


def ffn_runners(layer: SyntheticLayer, rows: int) -> tuple[dict[str, Runner], float]:
    """Runners of all paths on one shape, and the measured nnz."""
    weights, count = layer.weights, rotations(rows * WIDTH * 2 * 2)
    sets = [tokens(layer, rows, seed) for seed in range(min(count, 4))]
    fused, ordered = FusedWeights.of(weights), weights.by_frequency(layer.law.frequency)
    words = [pack_gate(x, weights, SETTINGS.form, SETTINGS.gate) for x in sets]
    out = torch.empty_like(sets[0])

    def each(call: Callable[[Any, Any], object]) -> Runner:
        return captured([lambda x=x, w=w: call(x, w) for x, w in zip(sets, words, strict=True)])

    runners = {
        "dense_eager": each(lambda x, _: dense_eager(x, weights)),
        "dense_fused": each(lambda x, _: dense_fused(x, fused)),
        "twell": each(lambda x, _: ffn(x, weights, "twell")),
        "hot_cold": each(lambda x, _: ffn(x, ordered, "hot_cold")),
        "gate_compact": each(lambda x, _: ffn(x, weights, "gate_compact")),
        "gate_cublas": each(lambda x, _: x @ weights.gate.T),
        "pack_gate": each(lambda x, w: hopper.pack_gate(x, weights, SETTINGS.form, w.words)),
        "up_down": each(lambda x, w: up_down(x, w, weights, Worklist.empty(rows, x.device), out=out)),
    }
    if rows <= 4096:
        for path in ("gate_pack", "ell", "csr"):
            runners[path] = each(lambda x, _, path=path: ffn(x, weights, path))
    return runners, mean_nnz(sets[0], weights)


def row_of(name: str, timing: Timing, **shape: Any) -> dict[str, Any]:
    """One CSV row of a timing."""
    return {
        **shape,
        "kernel": name,
        "time_us": timing.median_s * 1e6,
        "minimum_us": timing.minimum_s * 1e6,
        "spread": timing.spread,
        "samples": timing.samples,
        "calls_per_sample": timing.calls_per_sample,
        "mode": timing.mode,
    }


def bench_ffn(shapes: list[tuple[int, int]]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the inference FFN, shape by shape, all paths interleaved."""
    for rows, nnz in shapes:
        for pattern in PATTERNS:
            runners, found = ffn_runners(make_layer(pattern, nnz), rows)
            shape = {"pattern": pattern, "tokens": rows, "d": WIDTH, "f": NEURONS, "nnz": round(found, 2)}
            timings = time_runners(runners, samples=9)
            best = min(timings["dense_eager"].median_s, timings["dense_fused"].median_s)
            print(rows, pattern, f"nnz {found:.1f} best dense {best * 1e6:.0f} us", end=" ")
            print({n: f"{t.median_s * 1e6:.1f} ({best / t.median_s:.2f}x)" for n, t in timings.items()}, flush=True)
            yield [row_of(name, timing, **shape) for name, timing in timings.items()]
            del runners
            torch.cuda.empty_cache()


def bench_decode() -> Iterator[list[dict[str, Any]]]:
    """Rows of decode, weights rotated past the L2 (four layers of 69 MB)."""
    layers = [make_layer("independent", 29, seed) for seed in range(4)]
    fused = [FusedWeights.of(layer.weights) for layer in layers]
    for count in DECODE_TOKENS:
        inputs = [tokens(layer, count, 3) for layer in layers]
        pairs = list(zip(inputs, layers, fused, strict=True))
        runners = {
            "dense_eager": captured([lambda x=x, w=w: dense_eager(x, w.weights) for x, w, _ in pairs]),
            "dense_fused": captured([lambda x=x, f=f: dense_fused(x, f) for x, _, f in pairs]),
            "decode": captured([lambda x=x, w=w: ffn(x, w.weights, "decode") for x, w, _ in pairs]),
            "decode_triton": captured([lambda x=x, w=w: decode.decode_ffn(x, w.weights) for x, w, _ in pairs]),
        }
        if count <= hopper.DECODE_TOKENS[-1]:
            cuda = [lambda x=x, w=w: hopper.decode_ffn(x, w.weights) for x, w, _ in pairs]
            runners["decode_cuda"] = captured(cuda)
        timings = time_runners(runners, samples=11)
        print("decode", count, {n: f"{t.median_s * 1e6:.1f}" for n, t in timings.items()}, flush=True)
        shape = {"pattern": "independent", "tokens": count, "d": WIDTH, "f": NEURONS, "nnz": 29}
        yield [row_of(name, timing, **shape) for name, timing in timings.items()]


def training_step(x: Any, dy: Any, weights: FfnWeights, call: Callable[[Any, FfnWeights], Any]) -> Callable[[], None]:
    """Forward and backward of one layer; gradients are dropped."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weights.gate, weights.up, weights.down)]

    def step() -> None:
        out = call(leaves[0], FfnWeights(*leaves[1:]))
        torch.autograd.grad(out, leaves, dy)

    return step


def dense_train(x: Any, weights: FfnWeights) -> Any:
    """The dense layer under autograd."""
    return (torch.relu(x @ weights.gate.T) * (x @ weights.up.T)) @ weights.down


def peak_mb(step: Callable[[], None]) -> float:
    """Peak memory of a step, beyond what was allocated before, in MB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def training_steps(rows: int, nnz: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of one layer on the Zipf pattern, dense and sparse."""
    layer = make_layer("zipf", nnz)
    x = tokens(layer, rows, 3)
    dy = torch.randn_like(x)
    ordered = layer.weights.by_frequency(layer.law.frequency)
    return {
        "dense": training_step(x, dy, layer.weights, dense_train),
        "sparse": training_step(x, dy, ordered, sparse_ffn_train),
    }


def bench_training() -> Iterator[list[dict[str, Any]]]:
    """Rows of forward + backward on the Zipf pattern: time and peak memory, sparse and dense."""
    for rows, nnz in TRAINING_SHAPES:
        steps = training_steps(rows, nnz)
        for step in steps.values():
            step()
        peaks = {name: peak_mb(step) for name, step in steps.items()}
        timings = time_runners({n: eager([s]) for n, s in steps.items()}, samples=9, sample_s=1e-2)
        print("training", rows, nnz, {n: f"{t.median_s * 1e3:.2f} ms, {peaks[n]:.0f} MB" for n, t in timings.items()})
        shape = {"pattern": "zipf", "tokens": rows, "d": WIDTH, "f": NEURONS, "nnz": nnz}
        yield [row_of(n, t, **shape) | {"peak_mb": peaks[n]} for n, t in timings.items()]


def bench_energy() -> Iterator[list[dict[str, Any]]]:
    """Sustained time, power and energy per token: prefill by both patterns, decode at one token."""
    for pattern in PATTERNS:
        runners, found = ffn_runners(make_layer(pattern, 29), 16384)
        for name in ("dense_fused", "twell", "hot_cold"):
            yield [energy_row(name, runners[name], pattern, 16384, found)]
        del runners
    layers = [make_layer("independent", 29, seed) for seed in range(4)]
    inputs = [tokens(layer, 1, 3) for layer in layers]
    fused = [FusedWeights.of(layer.weights) for layer in layers]
    sparse = captured([lambda x=x, w=w: ffn(x, w.weights, "decode") for x, w in zip(inputs, layers, strict=True)] * 8)
    dense = captured([lambda x=x, f=f: dense_fused(x, f) for x, f in zip(inputs, fused, strict=True)] * 8)
    yield [energy_row("decode", sparse, "independent", 1, 29.0)]
    yield [energy_row("dense_fused", dense, "independent", 1, 29.0)]
    for name, step in training_steps(16384, 29).items():
        yield [energy_row(f"training_{name}", eager([step]), "zipf", 16384, 29.0)]


def energy_row(name: str, runner: Runner, pattern: str, rows: int, nnz: float) -> dict[str, Any]:
    """One CSV row of an energy window (scope: the GPU alone)."""
    reading = measure_energy(runner)
    print("energy", pattern, rows, name, f"{reading.call_s * 1e6:.1f} us {reading.power_w:.0f} W", flush=True)
    return {
        "pattern": pattern,
        "tokens": rows,
        "d": WIDTH,
        "f": NEURONS,
        "nnz": round(nnz, 2),
        "kernel": name,
        "sustained_us": reading.call_s * 1e6,
        "power_w": reading.power_w,
        "j_per_token": reading.call_j / rows,
        "window_s": reading.duration_s,
        "calls": reading.calls,
    }


def warm_compilers(workers: int) -> None:
    """Compile all kernels in parallel processes, each running every ``workers``-th of the checks."""
    command = [sys.executable, __file__, "--out", "unused", "--warm"]
    running = [subprocess.Popen([*command, str(index)]) for index in range(workers)]
    for process in running:
        process.wait()


def warm(index: int) -> None:
    """One worker's share of ``warm_compilers``."""
    layer = make_layer("zipf", 29)
    x, weights = tokens(layer, 256, 1), layer.weights
    ordered = weights.by_frequency(layer.law.frequency)
    jobs: list[Callable[[], object]] = [
        lambda: ffn(x, weights, "twell"),
        lambda: ffn(x, ordered, "hot_cold"),
        lambda: ffn(x, weights, "gate_compact"),
        training_step(x, torch.randn_like(x), weights, sparse_ffn_train),
        lambda: (ffn(x[:1], weights, "decode"), dense_fused(x, FusedWeights.of(weights))),
        lambda: (ffn(x[:4], weights, "decode"), ffn(x[:64], weights, "decode"), ffn(x[:32], weights, "decode")),
        lambda: (ffn(x, weights, "gate_pack"), ffn(x, weights, "ell"), ffn(x, weights, "csr")),
    ]
    jobs[index]()
    torch.cuda.synchronize()


def main() -> None:
    """Parse the command line, check, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=600.0, help="start no new shape after this long")
    parser.add_argument("--warm", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    require_gpu("bench_twell")
    if arguments.warm is not None:
        warm(arguments.warm)
        return
    began = time.monotonic()
    warm_compilers(7)
    errors = {pattern: check_ffn(pattern) for pattern in PATTERNS}
    print("relative errors", errors, f"after {time.monotonic() - began:.1f} s", flush=True)
    benches: dict[str, Iterator[list[dict[str, Any]]]] = {
        "ffn": bench_ffn(FFN_SHAPES + MORE_SHAPES),
        "decode": bench_decode(),
        "training": bench_training(),
        "energy": bench_energy(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts.split(","):
        header = provenance(f"twell {part}", " ".join(["python", *sys.argv])) | {"check": str(errors["zipf"])}
        rows: list[dict[str, Any]] = []
        for measured in benches[part]:
            rows += measured
            write_csv(arguments.out / f"twell_{part}.csv", header, rows)
            if time.monotonic() - began > arguments.seconds:
                print("stopped: out of time", flush=True)
                return


if __name__ == "__main__":
    main()
