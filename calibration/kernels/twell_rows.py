"""Rows that `sparsesim fit` reads, from the benchmark of the TwELL kernels.

    python calibration/kernels/twell_rows.py calibration/data/h100-sxm

writes sparse_ffn_paths.csv beside twell_ffn.csv: each path as the format it is, and as `auto` the fastest of those that
`sparsesim.kernels.twell.ffn` may choose from.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

Row = Mapping[str, str]
SOURCE, TARGET = "twell_ffn.csv", "sparse_ffn_paths.csv"
FORMATS = {"twell": "twell", "gate_compact": "compact", "ell": "ell", "csr": "csr"}
AUTO = ("dense_fused", "twell", "hot_cold", "gate_compact")
SHAPE = ("pattern", "tokens", "d", "f", "nnz")
COLUMNS = ("op", "tokens", "d_model", "d_ff", "nnz", "pattern", "format", "dtype", "regime", "graph", "group",
           "measured_time_s", "spread", "backend")  # fmt: skip


def rows_of(shape: Sequence[str], paths: Sequence[Row]) -> Iterator[tuple[object, ...]]:
    """One row per format measured on a shape."""
    pattern, tokens, d, f, nnz = shape
    fastest = min((row for row in paths if row["kernel"] in AUTO), key=lambda row: float(row["time_us"]))
    chosen = [(FORMATS[row["kernel"]], row) for row in paths if row["kernel"] in FORMATS] + [("auto", fastest)]
    for form, row in chosen:
        seconds = f"{float(row['time_us']) * 1e-6:.6g}"
        yield ("sparse_ffn", tokens, d, f, nnz, pattern, form, "bf16", "burst", "true", "paths", seconds,
               row["spread"], row["kernel"])  # fmt: skip


def main(folder: Path) -> None:
    """Write the rows beside the benchmark's, its provenance carried over."""
    lines = (folder / SOURCE).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.startswith("#") and not line.startswith("# what")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    header = [f"# what: sparse gated ReLU FFN by format, from {SOURCE}", *kept]
    with (folder / TARGET).open("w", encoding="utf-8", newline="") as file:
        file.write("\n".join([*header, "# made by: python calibration/kernels/twell_rows.py"]) + "\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for shape, paths in groupby(rows, key=lambda row: [row[name] for name in SHAPE]):
            writer.writerows(rows_of(shape, list(paths)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
