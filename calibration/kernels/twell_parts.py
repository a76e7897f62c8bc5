"""Rows of the sparse FFN from its parts: the pack GEMM and up+down of `twell_sweep.csv`, timed apart, added up.

    python calibration/kernels/twell_parts.py calibration/data/h100-sxm

writes sparse_ffn_parts.csv beside it. Only parts of one run and shape are added; the pack GEMM, whose time depends on
neither pattern nor nnz within its spread, serves both patterns. Of several launch settings the fastest counts. A sum
leaves out what the second kernel's start hides behind the first one's end, some microseconds.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Row = Mapping[str, str]
SOURCE, TARGET = "twell_sweep.csv", "sparse_ffn_parts.csv"
PACK, UP_DOWN = "pack_hopper", "up_down_from_twell"
COLUMNS = ("op", "tokens", "d_model", "d_ff", "nnz", "pattern", "format", "dtype", "regime", "graph", "group",
           "measured_time_s", "pack_s", "up_down_s", "spread", "run")  # fmt: skip


def fastest(rows: Iterable[Row], kernel: str, by: tuple[str, ...]) -> dict[tuple[str, ...], Row]:
    """The fastest row of a kernel, whatever its launch settings, for each value of the columns `by`."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in by)
        if row["kernel"].startswith(kernel) and (
            key not in best or float(row["time_us"]) < float(best[key]["time_us"])
        ):
            best[key] = row
    return best


def sums(rows: list[Row]) -> Iterator[dict[str, object]]:
    """One row for each run, shape and pattern with both parts."""
    packs = fastest(rows, PACK, ("run", "tokens", "d", "f"))
    for (run, tokens, d, f, pattern, nnz), part in fastest(
        rows, UP_DOWN, ("run", "tokens", "d", "f", "pattern", "nnz")
    ).items():
        pack = packs.get((run, tokens, d, f))
        if pack is None:
            continue
        pack_s, up_down_s = float(pack["time_us"]) * 1e-6, float(part["time_us"]) * 1e-6
        spread = max(float(pack["spread"]), float(part["spread"]))
        values = ("sparse_ffn", tokens, d, f, nnz, pattern, "twell", "bf16", "burst", "true", "sum of parts",
                  f"{pack_s + up_down_s:.6g}", f"{pack_s:.6g}", f"{up_down_s:.6g}", spread, run)  # fmt: skip
        yield dict(zip(COLUMNS, values, strict=True))


def main(folder: Path) -> None:
    """Write the sums beside the sweep, its provenance carried over."""
    lines = (folder / SOURCE).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.startswith("#") and not line.startswith(("# what", "# columns"))]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    what = f"# what: sparse gated ReLU FFN as the sum of parts timed apart ({SOURCE}): {PACK} + {UP_DOWN}"
    with (folder / TARGET).open("w", encoding="utf-8", newline="") as file:
        file.write("\n".join([what, "# made by: python calibration/kernels/twell_parts.py", *kept]) + "\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sums(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
