"""Measure the SSM kernels: `python -m calibration.kernels.bench_ssm OUT` writes OUT/ssm.csv.

Mamba-2 2.7B's shape (80 heads x 64, state 128, one group) and Gated DeltaNet's with 32 heads of 128 x 128.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from calibration.kernels.rows import Case, Table, measure_ceilings, normal
from sparsesim.kernels.common.checks import assert_close
from sparsesim.kernels.common.provenance import provenance, write_csv
from sparsesim.kernels.common.timing import rotations
from sparsesim.kernels.ssm import decode, reference, scan

HEADS, HEAD_DIM, D_STATE, GROUPS = 80, 64, 128, 1
DELTA_HEADS, DELTA_DIM = 32, 128
STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DECODE_BATCHES = (1, 4, 16, 64, 256)
SCAN_SHAPES = ((8, 8192), (1, 8192), (2, 32768), (16, 1024))
BF16 = torch.bfloat16


def mamba_inputs(batch: int, length: int) -> reference.MambaInputs:
    """Random inputs with decays and steps of the sizes that trained models have."""
    fp32 = torch.float32
    return reference.MambaInputs(
        x=normal(batch, length, HEADS, HEAD_DIM),
        dt=normal(batch, length, HEADS),
        b=normal(batch, length, GROUPS, D_STATE),
        c=normal(batch, length, GROUPS, D_STATE),
        a=-torch.empty(HEADS, dtype=fp32, device="cuda").uniform_(1.0, 16.0),
        d=normal(HEADS, dtype=fp32),
        dt_bias=normal(HEADS, scale=0.5, dtype=fp32) - 4.0,
    )


def decode_rows(table: Table, name: str, batch: int) -> None:
    """One Mamba-2 token: the state is read and written."""
    shape, dtype = (batch, HEADS, HEAD_DIM, D_STATE), STATE_DTYPES[name]
    inputs = mamba_inputs(batch, 1)
    state = normal(*shape, dtype=dtype)
    expected, _ = reference.mamba_reference(inputs, state)
    error = assert_close("mamba decode", decode.mamba_decode(inputs, state.clone()), expected, BF16)
    moved = 2.0 * state.numel() * state.element_size() + 2.0 * (
        2 * inputs.x.numel() + inputs.dt.numel() + 2 * inputs.b.numel()
    )
    states = [normal(*shape, dtype=dtype) for _ in range(rotations(moved, 16))]
    calls = [lambda s=s: decode.mamba_decode(inputs, s) for s in states]
    labels = {"kernel": "mamba_decode", "batch": batch, "length": 1, "state": name, "variant": "ours"}
    flop = 5.0 * state.numel()
    table.add([Case(labels, calls, moved, flop, error, energy=batch == 64)])


def delta_rows(table: Table, batch: int) -> None:
    """One Gated DeltaNet token, fp32 state."""
    wide = (batch, 1, DELTA_HEADS, DELTA_DIM)
    q, k, v = normal(*wide), normal(*wide, scale=DELTA_DIM**-0.5), normal(*wide)
    g = -normal(*wide[:3], dtype=torch.float32).abs()
    inputs = reference.DeltaInputs(q, k, v, g, normal(*wide[:3], dtype=torch.float32).sigmoid())
    shape = (batch, DELTA_HEADS, DELTA_DIM, DELTA_DIM)
    state = normal(*shape, dtype=torch.float32)
    expected, _ = reference.delta_reference(inputs, state)
    error = assert_close("delta decode", decode.delta_decode(inputs, state.clone()), expected, BF16)
    moved = 8.0 * state.numel() + 8.0 * q.numel() + 8.0 * g.numel()
    states = [normal(*shape, dtype=torch.float32) for _ in range(rotations(moved, 16))]
    labels = {"kernel": "delta_decode", "batch": batch, "length": 1, "state": "fp32", "variant": "ours"}
    table.add(
        [Case(labels, [lambda s=s: decode.delta_decode(inputs, s) for s in states], moved, 7.0 * state.numel(), error)]
    )


def scan_rows(table: Table, batch: int, length: int) -> None:
    """The chunked scan; FLOP of scores, both state products and the score-value product, masked half counted."""
    short = mamba_inputs(1, 256)
    expected, _ = reference.mamba_reference(short, torch.zeros(1, HEADS, HEAD_DIM, D_STATE, device="cuda"))
    error = assert_close("mamba scan", scan.mamba_scan(short)[0], expected, BF16)
    inputs = mamba_inputs(batch, length)
    chunk = scan.SCAN_TILE.chunk
    states = batch * HEADS * HEAD_DIM * D_STATE
    moved = 2.0 * (2 * inputs.x.numel() + inputs.dt.numel() + 2 * inputs.b.numel()) + 8.0 * states
    flop = 2.0 * batch * length * HEADS * (2 * HEAD_DIM * D_STATE + chunk * (D_STATE + HEAD_DIM))
    labels = {"kernel": "mamba_scan", "batch": batch, "length": length, "state": "fp32", "variant": "ours"}
    first = normal(batch, HEADS, HEAD_DIM, D_STATE, dtype=torch.float32)
    table.add(
        [
            Case(
                labels,
                [lambda: scan.mamba_scan(inputs, first)],
                moved,
                flop,
                error,
                energy=(batch, length) == (8, 8192),
            )
        ]
    )


def main(out: Path) -> None:
    """Write every row to out/ssm.csv and print a table."""
    table = Table(measure_ceilings())
    for name in STATE_DTYPES:
        for batch in DECODE_BATCHES:
            decode_rows(table, name, batch)
    for batch in (4, 64):
        delta_rows(table, batch)
    for batch, length in SCAN_SHAPES:
        scan_rows(table, batch, length)
    for row in table.rows:
        print(
            row["kernel"],
            row["batch"],
            row["length"],
            row["state"],
            f"{row['median_us']:.1f} us {row['share_of_bound']:.3f} of bound",
        )
    header = provenance("SSM decode and scan", "python -m calibration.kernels.bench_ssm OUT")
    ceilings = {
        "copy_tb_per_s": f"{table.ceilings.bytes_per_s * 1e-12:.3f}",
        "gemm_tflop_per_s": f"{table.ceilings.flop_per_s * 1e-12:.1f}",
    }
    write_csv(out / "ssm.csv", header | ceilings, table.rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
