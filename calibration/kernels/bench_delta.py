"""Measure threshold sparsification: `python -m calibration.kernels.bench_delta OUT` writes OUT/delta.csv."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from calibration.kernels.rows import Case, Table, measure_ceilings, normal
from sparsesim.kernels.common.checks import assert_close
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.delta import config, gemv, reference, threshold

SHAPES = ((4096, 14336), (14336, 4096), (4096, 4096))
DENSITIES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
ENERGY_DENSITY = 0.1
BUFFERS = 3
BF16 = torch.bfloat16


def rows(table: Table, d: int, n: int, density: float) -> None:
    """Gather with its threshold launch and without, skip, and PyTorch's dense product; weights rotated."""
    x = normal(1, d)
    by_input = [normal(d, n, scale=d**-0.5) for _ in range(BUFFERS)]
    by_output = [w.T.contiguous() for w in by_input]
    delta = reference.calibrate_delta(x, density)
    deltas = torch.tensor([delta], device="cuda")
    survivors = threshold.threshold(x, deltas)
    kept = int(survivors.count[0, 0])
    gather, skip = (gemv.GemvScratch(1, n, tile, x.device) for tile in (config.GATHER_TILE, config.SKIP_TILE))
    expected = reference.sparse_gemv_reference(x, by_input[0], delta)
    errors = [
        assert_close("gather", gemv.gather_gemv(survivors, 0, by_input[0], scratch=gather), expected, BF16),
        assert_close("skip", gemv.skip_gemv(x, by_input[0], delta, scratch=skip)[0], expected, BF16),
    ]
    moved, flop = 2.0 * (kept * n + d + n), 2.0 * kept * n
    labels = {"kernel": "delta_gemv", "d": d, "n": n, "density": kept / d}
    energy = density == ENERGY_DENSITY and n > d

    def whole(w: torch.Tensor) -> torch.Tensor:
        return gemv.gather_gemv(threshold.threshold(x, deltas), 0, w, scratch=gather)

    dense_bytes, dense_flop = 2.0 * (d * n + d + n), 2.0 * d * n
    calls = {
        "threshold + gather": [lambda w=w: whole(w) for w in by_input],
        "gather": [lambda w=w: gemv.gather_gemv(survivors, 0, w, scratch=gather) for w in by_input],
        "skip": [lambda w=w: gemv.skip_gemv(x, w, delta, scratch=skip) for w in by_input],
        "dense": [lambda w=w: torch.nn.functional.linear(x, w) for w in by_output],
    }
    table.add(
        [
            Case(
                labels | {"variant": "threshold + gather"}, calls["threshold + gather"], moved, flop, errors[0], energy
            ),
            Case(labels | {"variant": "gather"}, calls["gather"], moved, flop, errors[0]),
            Case(labels | {"variant": "skip"}, calls["skip"], moved, flop, errors[1]),
            Case(labels | {"variant": "dense"}, calls["dense"], dense_bytes, dense_flop, None, energy),
        ]
    )


def main(out: Path) -> None:
    """Write every row to out/delta.csv and print a table."""
    table = Table(measure_ceilings())
    for d, n in SHAPES:
        for density in DENSITIES:
            rows(table, d, n, density)
    x, deltas = normal(1, 4096), torch.tensor([0.1, 0.5, 1.0], device="cuda")
    labels = {"kernel": "threshold", "d": 4096, "n": 3, "density": "", "variant": "3 projections"}
    table.add([Case(labels, [lambda: threshold.threshold(x, deltas)], 2.0 * 4096)])
    for row in table.rows:
        print(row["kernel"], row["d"], row["n"], row["density"], row["variant"], f"{row['median_us']:.1f} us")
    header = provenance("threshold sparsification and sparse GEMV", "python -m calibration.kernels.bench_delta OUT")
    ceilings = {
        "copy_tb_per_s": f"{table.ceilings.bytes_per_s * 1e-12:.3f}",
        "gemm_tflop_per_s": f"{table.ceilings.flop_per_s * 1e-12:.1f}",
    }
    write_csv(out / "delta.csv", header | ceilings, table.rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
