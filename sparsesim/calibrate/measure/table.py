"""CSV tables that are appended to row by row, below a provenance header of `# key: value` lines."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsesim.calibrate.measure.suite import Row
from sparsesim.errors import InputError
from sparsesim.work import Op, columns

MEASURED = (
    "measured_time_s",
    "minimum_time_s",
    "spread",
    "samples",
    "calls_per_sample",
    "buffer_sets",
    "measured_energy_j",
    "memory_j",
    "power_w",
    "memory_power_w",
    "clock_mhz",
    "temperature_c",
    "backend",
    "alternatives",
    "max_abs_error",
    "relative_error",
)
"""Columns beside the op's: seconds of one call (median; minimum), interquartile range over median, ..."""

_SAME_ON_RESUME = ("device", "power_cap_w", "torch")


def column_names(ops: Sequence[type[Op]], beside: Sequence[str] = ()) -> list[str]:
    """The header of a table that mixes `ops`; `beside` follows what every table has."""
    own = dict.fromkeys(name for op in ops for name in columns(op))
    return ["op", *own, "group", *MEASURED, *beside]


class Table:
    """One CSV file; opening an existing one resumes it."""

    def __init__(self, path: Path, names: Sequence[str], provenance: Mapping[str, str]) -> None:
        self.path, self.names = path, list(names)
        if path.exists():
            self._resume(provenance)
        else:
            self._write(provenance, [])

    def rows(self) -> list[dict[str, str]]:
        """Rows measured so far."""
        return read(self.path)[1]

    def missing(self, rows: Sequence[Row]) -> list[Row]:
        """Those of `rows` that are not in the table, in their order."""
        done = self.rows()
        return [row for row in rows if row.key() not in {_key(c, row) for c in done if c["op"] == row.op.op}]

    def append(self, cells: Mapping[str, str]) -> None:
        """Add a row and flush it to disk."""
        line = io.StringIO()
        csv.DictWriter(line, self.names, restval="", lineterminator="\n").writerow(cells)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def _resume(self, provenance: Mapping[str, str]) -> None:
        header, rows = read(self.path)
        for key in _SAME_ON_RESUME:
            if header.get(key) != provenance.get(key):
                raise InputError(
                    f"{self.path}: measured with {key} {header.get(key)!r}, now it is {provenance.get(key)!r}; "
                    "give another --out"
                )
        old = [name for row in rows[:1] for name in row]
        if old and set(old) != set(self.names):
            raise InputError(f"{self.path}: its columns are not those of this suite; give another --out")
        self.names = old or self.names
        self._write(header | {"resumed": provenance["date"]}, rows)

    def _write(self, header: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            file.writelines(f"# {key}: {value}\n" for key, value in header.items())
            writer = csv.DictWriter(file, self.names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)


def read(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The provenance header and the rows of a table; a last line cut short by a kill is left out."""
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1].splitlines()
    comments = [line[2:].partition(": ") for line in complete if line.startswith("# ")]
    body = [line for line in complete if not line.startswith("#")]
    return {key: value for key, _, value in comments}, list(csv.DictReader(body))


def _key(cells: Mapping[str, str], row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, cells.get(name, "")) for name in row.cells()))
