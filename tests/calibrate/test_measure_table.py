"""Tables keep their provenance, resume where they stopped and refuse to mix devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sparsesim.calibrate.measure.suite import Row
from sparsesim.calibrate.measure.table import Table, column_names, read
from sparsesim.errors import InputError
from sparsesim.work import AttentionDecode, Copy, Gemm

HEADER = {"device": "H100", "power_cap_w": "700", "torch": "2.11", "date": "2026-11-22 00:42 UTC"}
ROWS = [Row(Gemm(m=float(m), n=64.0, k=32.0), "g") for m in (1, 2, 3)] + [Row(Copy(bytes=1024.0), "c")]
NAMES = column_names([Gemm, Copy])


def table(path: Path, **changes: str) -> Table:
    return Table(path, NAMES, HEADER | changes)


def test_columns_are_the_ops_then_what_was_measured() -> None:
    names = column_names([Gemm, AttentionDecode])
    assert names[:4] == ["op", "m", "n", "k"]
    assert names.count("dtype") == 1
    assert {"kv_heads", "window", "graph", "regime", "group", "measured_time_s", "measured_energy_j"} <= set(names)


def test_a_resumed_table_lacks_only_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    first = table(path)
    for row in (ROWS[1], ROWS[3]):
        first.append(row.cells() | {"group": row.group, "measured_time_s": "1e-6"})
    again = table(path, date="later")
    assert again.missing(ROWS) == [ROWS[0], ROWS[2]]
    header, rows = read(path)
    assert header["date"] == HEADER["date"]
    assert header["resumed"] == "later"
    assert [row["measured_time_s"] for row in rows] == ["1e-6", "1e-6"]


def test_a_line_cut_short_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table(path).append(ROWS[0].cells())
    with path.open("a") as file:
        file.write("gemm,2,64,3")
    assert table(path).missing(ROWS[:2]) == [ROWS[1]]


@pytest.mark.parametrize(("key", "value"), [("device", "H200"), ("power_cap_w", "500"), ("torch", "2.12")])
def test_another_device_cap_or_library_is_refused(tmp_path: Path, key: str, value: str) -> None:
    table(tmp_path / "t.csv")
    with pytest.raises(InputError, match=f"measured with {key} .*now it is '{value}'.*another --out"):
        table(tmp_path / "t.csv", **{key: value})


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table(path).append(ROWS[0].cells())
    with pytest.raises(InputError, match="its columns are not those of this suite"):
        Table(path, column_names([AttentionDecode]), HEADER)


def test_columns_come_in_the_same_order_in_every_process() -> None:
    program = "from sparsesim.work import OPS, columns; print([list(columns(op)) for op in OPS.values()])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


def test_a_table_keeps_the_column_order_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    Table(path, NAMES[::-1], HEADER).append(ROWS[0].cells())
    resumed = table(path)
    resumed.append(ROWS[1].cells())
    assert resumed.missing(ROWS) == ROWS[2:]
