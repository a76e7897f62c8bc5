"""Measure MLA decode attention: `python -m calibration.kernels.bench_mla OUT` writes OUT/mla.csv."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from calibration.kernels.rows import Case, Table, measure_ceilings, normal
from sparsesim.kernels.common.checks import assert_close
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.common.timing import rotations
from sparsesim.kernels.mla import config, decode, reference

LATENT, ROPE = 512, 64
WIDTH = LATENT + ROPE
SCALE = 192**-0.5  # 1 / sqrt(128 + 64), the un-absorbed head's width
SHAPES = ((1, 8192), (1, 65536), (8, 8192), (32, 2048), (64, 8192), (128, 4096), (256, 2048))
HEADS = (16, 64, 128)
ENERGY_SHAPE = (64, 8192)
BF16 = torch.bfloat16


def rows(table: Table, heads: int, batch: int, tokens: int) -> None:
    """The chosen kernel, and for many heads the Triton tile beside it; caches rotated past the L2."""
    moved = 2.0 * batch * (tokens * WIDTH + heads * (WIDTH + LATENT))
    caches = [normal(batch, tokens, WIDTH) for _ in range(rotations(moved, 16))]
    query = normal(batch, heads, WIDTH)
    lengths = torch.full((batch,), tokens, dtype=torch.int32, device="cuda")
    few = slice(0, min(batch, 2))
    expected = reference.mla_reference(query[few], caches[0][few], lengths[few], LATENT, SCALE)
    out = decode.mla_decode(query, caches[0], lengths, LATENT, SCALE)[few]
    error = assert_close(f"mla {heads} {batch} {tokens}", out, expected, BF16)
    by_hand = decode.hopper_applies(heads, LATENT, ROPE)
    labels = {"kernel": "mla_decode", "heads": heads, "batch": batch, "tokens": tokens}
    flop = 2.0 * batch * heads * tokens * (WIDTH + LATENT)
    calls = [lambda c=c: decode.mla_decode(query, c, lengths, LATENT, SCALE) for c in caches]
    energy = (batch, tokens) == ENERGY_SHAPE and heads != 64
    cases = [Case(labels | {"variant": "gluon" if by_hand else "triton"}, calls, moved, flop, error, energy)]
    if by_hand:
        triton_calls = [
            lambda c=c: decode.mla_decode(query, c, lengths, LATENT, SCALE, tile=config.MANY_HEADS) for c in caches
        ]
        cases.append(Case(labels | {"variant": "triton"}, triton_calls, moved, flop))
    table.add(cases)


def main(out: Path) -> None:
    """Write every row to out/mla.csv and print a table."""
    table = Table(measure_ceilings())
    for heads in HEADS:
        for batch, tokens in SHAPES:
            rows(table, heads, batch, tokens)
    for row in table.rows:
        figures = f"{row['median_us']:.1f} us {row['tb_per_s']:.2f} TB/s {row['tflop_per_s']:.0f} TFLOP/s"
        print(
            row["heads"], row["batch"], row["tokens"], row["variant"], figures, f"{row['share_of_bound']:.3f} of bound"
        )
    header = provenance("absorbed MLA decode attention", "python -m calibration.kernels.bench_mla OUT")
    ceilings = {
        "copy_tb_per_s": f"{table.ceilings.bytes_per_s * 1e-12:.3f}",
        "gemm_tflop_per_s": f"{table.ceilings.flop_per_s * 1e-12:.1f}",
    }
    write_csv(out / "mla.csv", header | ceilings, table.rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
