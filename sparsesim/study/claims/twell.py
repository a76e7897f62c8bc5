"""TwELL: forward and training of the paper's four models, naive formats, other chips (arXiv 2603.23198)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsesim.study.claims.base import Claim, Row, answers, crossing, curve, figure

PAPER = "arXiv 2603.23198"
FORWARD = {"0.5b": (410, 480, 1.63, 1.43), "1b": (185, 219, 3.71, 3.17), "1.5b": (119, 141, 5.73, 4.87),
           "2b": (87.8, 106, 7.85, 6.51)}  # fmt: skip
"""Published forward tokens/ms dense and sparse, mJ/token dense and sparse."""
LAYERS = {"0.5b": 8, "1b": 18, "1.5b": 28, "2b": 38}
TRAINING = {"0.5b": (97.3, 95.9, 26.2, 21.2), "1b": (48.6, 52.1, 44.5, 33.1), "1.5b": (31.8, 35.5, 62.8, 45.1),
            "2b": (22.4, 27.3, 46.7, 57.1)}  # fmt: skip
"""Published training tokens/ms and peak GB, dense and sparse."""
NEURONS = 5632
GAIN = "our own layer, measured, gains 6 to 8 %: one read by the host empties the launch queue, which no kernel shows"
STEP = "a layer's kernels within 4 % of our own measurement; what a trainer does between them is not counted"
KEPT = "the paper frees 0.63 GB a layer, more than the three matrices a dense FFN keeps hold at this micro-batch"
MICRO_BATCH = 6


def _forward(size: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Tokens/ms and mJ/token, dense and sparse."""
    (_, dense), (_, sparse) = answers(f"twell-forward-{size}")
    return tuple((run.summary["tok_per_s"] / 1e3, run.summary["j_per_tok"] * 1e3) for run in (dense, sparse))  # type: ignore[return-value]


def forward() -> Iterator[Row]:
    """The 16 figures of the paper's table."""
    for size, (dense, sparse, dense_mj, sparse_mj) in FORWARD.items():
        (rate, joules), (sparse_rate, sparse_joules) = _forward(size)
        yield Row(f"{size} dense, forward", dense, rate, "tok/ms", 0.10)
        yield Row(f"{size} sparse, forward", sparse, sparse_rate, "tok/ms", 0.10)
        yield Row(f"{size} dense, energy", dense_mj, joules, "mJ/tok", 0.10)
        yield Row(f"{size} sparse, energy", sparse_mj, sparse_joules, "mJ/tok", 0.10)


def saved() -> Iterator[Row]:
    """Speed-ups in percent, and time saved per layer and token."""
    for size, (dense, sparse, _, _) in FORWARD.items():
        (rate, _), (sparse_rate, _) = _forward(size)
        published = 1e6 * (1 / dense - 1 / sparse) / LAYERS[size]
        found = 1e6 * (1 / rate - 1 / sparse_rate) / LAYERS[size]
        yield Row(f"{size} saved per layer and token", published, found, "ns", 0.12)
        yield Row(f"{size} speed-up", 100 * (sparse / dense - 1), 100 * (sparse_rate / rate - 1), "%", 2.5)


def by_nnz() -> Iterator[Row]:
    """Break-even, and the published variants of the 1.5B model."""
    axis = "sparsity.density"
    x, dense = curve("twell-nnz", "step_s", axis, format="dense")
    _, sparse = curve("twell-nnz", "step_s", axis, format="twell")
    x, dense_j = curve("twell-nnz", "j_per_tok", axis, format="dense")
    _, sparse_j = curve("twell-nnz", "j_per_tok", axis, format="twell")
    measured = "between the measured 75 and 83 of the FFN alone against the best dense, and what eager passes add"
    yield Row("break-even in time, active neurons", None, NEURONS * crossing(x, sparse, dense), "", None, measured)
    yield Row("break-even in energy, active neurons", None, NEURONS * crossing(x, sparse_j, dense_j))
    auto = curve("twell-nnz", "step_s", axis, format="auto")[1]
    fixed, chosen = (100 * (float(np.interp(108 / NEURONS, x, dense / own)) - 1) for own in (sparse, auto))
    yield Row("speed-up at 108 active (warm-up variant)", 1.9, fixed, "%", None, "a mean: here every layer has it")
    why = "our kernels with the hottest neurons dense, which break even later"
    yield Row("the same, fastest of our kernels", None, chosen, "%", None, why)
    yield Row("speed-up at 911 active (no regularisation), format twell", None, 100 * (dense[-1] / sparse[-1] - 1), "%")


def chips() -> Iterator[Row]:
    """Speed-up of the 1.5B model by chip."""
    why = {
        "h200-sxm": "Hopper too",
        "a100-sxm": "not smaller: products are slower there by more than the caches; no kernel was measured on it",
    }
    for chip in ("h100-sxm", "h200-sxm", "a100-sxm", "b200", "rtx-4090"):
        pair = [figure("twell-chips", "step_s", hardware=chip, format=form) for form in ("dense", "twell")]
        yield Row(f"{chip} speed-up", None, 100 * (pair[0] / pair[1] - 1), "%", None, why.get(chip, ""))


def formats() -> Iterator[Row]:
    """Tokens from which a format beats dense at 29 active neurons, and its time at 64 tokens."""
    x, dense = curve("sparse-formats", "step_s", "workload.context", format="dense")
    for form in ("csr", "ell", "compact"):
        own = curve("sparse-formats", "step_s", "workload.context", format=form)[1]
        yield Row(f"{form}: time over dense's at 64 tokens", None, float(own[0] / dense[0]))
        yield Row(f"{form}: faster than dense from", None, crossing(x, dense, own), "tokens")
    classic = (152 + 152 + 205 + 180) / 456
    why = "measured: gate and up 152 us each, conversion to CSR 205, SpMM down 180, against 456 dense"
    yield Row("gate, torch CSR conversion, SpMM over dense, 4096 tokens, H100", None, classic, "", None, why)


def training() -> Iterator[Row]:
    """Throughput and peak memory at one stated micro-batch, and the paper's two headlines."""
    for size, (dense, sparse, dense_gb, sparse_gb) in TRAINING.items():
        own = f"{size} at micro-batch {MICRO_BATCH}"
        rate, hybrid = (_training(size, "tok_per_s", saved) / 1e3 for saved in ("dense", "twell_hybrid"))
        peak, hybrid_peak = (_training(size, "peak_memory_bytes", saved) / 1e9 for saved in ("dense", "twell_hybrid"))
        larger = "the paper's 2B ran dense at a smaller micro-batch and sparse at a larger one" if size == "2b" else ""
        yield Row(f"{own}, dense", dense, rate, "tok/ms", None if larger else 0.12, larger or STEP)
        yield Row(f"{own}, gain", 100 * (sparse / dense - 1), 100 * (hybrid / rate - 1), "%", None, larger or GAIN)
        yield Row(f"{own}, dense peak", dense_gb, peak, "GB", None if larger else 0.07, larger)
        yield Row(f"{own}, hybrid peak", sparse_gb, hybrid_peak, "GB", None, larger or KEPT)
    for count in (1, 2, 4, 8):
        peak = _training("1b", "peak_memory_bytes", "dense", count) / 1e9
        yield Row(f"1b at micro-batch {count}, dense peak", 44.5, peak, "GB", None, "sensitivity")
    yield Row(
        "2b at micro-batch 1, dense peak", 46.7, _training("2b", "peak_memory_bytes", "dense", 1) / 1e9, "GB", 0.06
    )
    yield Row(
        "2b at micro-batch 4, hybrid peak",
        57.1,
        _training("2b", "peak_memory_bytes", "twell_hybrid", 4) / 1e9,
        "GB",
        0.06,
    )


def _training(size: str, quantity: str, saved: str, micro_batch: int = MICRO_BATCH) -> float:
    return figure(f"twell-training-{size}", quantity, saved=saved, micro_batch=micro_batch)


CLAIMS = (
    Claim(
        "1. TwELL forward throughput and energy",
        PAPER,
        "sparse kernels raise forward throughput by up to 20.5 % and lower energy per token as much, 0.5B to 2B",
        tuple(f"twell-forward-{size}" for size in FORWARD),
        lambda: [*forward(), *saved()],
    ),
    Claim(
        "1b. TwELL by number of active neurons",
        PAPER,
        "the gain depends on how many neurons stay active: 24 to 911 of 5632",
        ("twell-nnz",),
        lambda: list(by_nnz()),
    ),
    Claim(
        "1c. TwELL on other chips",
        PAPER,
        "gains may diminish on older hardware or other makes: the kernels use Hopper's tensor memory accelerator",
        ("twell-chips",),
        lambda: list(chips()),
    ),
    Claim(
        "2. Naive sparse formats",
        PAPER,
        "finding the non-zeros and rearranging indices often takes longer than the sparse products save",
        ("sparse-formats",),
        lambda: list(formats()),
    ),
    Claim(
        "8. TwELL training",
        PAPER,
        "training of the 2B model gains 21.9 %; the 1B model's peak memory falls from 44.5 to 33.1 GB",
        tuple(f"twell-training-{size}" for size in TRAINING),
        lambda: list(training()),
    ),
)
