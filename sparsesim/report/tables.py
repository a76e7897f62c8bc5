"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsesim.metrics.attributes import ATTRIBUTES, Attribute
from sparsesim.metrics.columns import floats
from sparsesim.report.plots.comparison import figure_of, labelled
from sparsesim.report.words import described, interval_of, shown
from sparsesim.run import Run

if TYPE_CHECKING:
    from rich.table import Table

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
OP_COLUMNS = ("phase", "part", "count", "time", "share", "TFLOP/s", "TB/s", "energy", "bound", "±", "provenance")
STATISTICS = ("mean", "p50", "p90", "p99", "max")


def scalar_names(runs: Sequence[Run]) -> list[str]:
    """Figures of the table of attributes that are single numbers in any of the runs, in the table's order."""
    names = [row.name for row in ATTRIBUTES if row.table == "summary"]
    return [name for name in names if any(figure_of(run.summary, name) is not None for run in runs)]


def figures(run: Run) -> Iterator[tuple[Attribute, str, str]]:
    """Every single figure of a run: what it is, its value and its interval."""
    for name in scalar_names([run]):
        row = described(name)
        yield row, shown(figure_of(run.summary, name), row.unit), interval_of(run, name)


def latency_table(run: Run) -> Table:
    """Mean and percentiles of the latencies."""
    table = _table("latency", *STATISTICS)
    for name in LATENCIES:
        found = run.summary.get(name)
        if found and found.get("mean") is not None:
            table.add_row(described(name).label, *(shown(found.get(key), "s") for key in STATISTICS))
    return table


def summary_table(run: Run) -> Table:
    """Every single figure with its unit and interval."""
    table = _table("figure", "value", "interval")
    for row, value, interval in figures(run):
        table.add_row(row.label, value, interval)
    for name, joules in (run.summary.get("energy_by_component_j") or {}).items():
        share = joules / run.summary["energy_j"] if run.summary.get("energy_j") else None
        table.add_row(f"Energy, {name}", shown(joules, "J"), shown(share, "share") if share is not None else "")
    return table


def comparison_table(runs: Sequence[Run]) -> Table:
    """Figures of several runs side by side."""
    table = _table("figure", *(run.title for run in runs))
    for name, cells in side_by_side(runs):
        table.add_row(labelled(name), *cells)
    return table


def side_by_side(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Every figure that any of the runs has, with its value in each."""
    names = [f"{name}.{key}" for name in LATENCIES for key in ("mean", "p50", "p99")]
    for name in (*names, *scalar_names(runs)):
        values = [figure_of(run.summary, name) for run in runs]
        if any(value is not None for value in values):
            yield name, [shown(value, described(name).unit) for value in values]


def ops_table(run: Run, most: int = 30) -> Table:
    """The ops of each phase by falling time: what they cost and what bounds them."""
    table = _table(*OP_COLUMNS)
    for row in op_rows(run, most):
        table.add_row(*row)
    return table


def op_rows(run: Run, most: int) -> Iterator[tuple[str, ...]]:
    """The cells of `ops_table`; the most costly rows of each phase."""
    ops = run.tables["ops"]
    for phase in dict.fromkeys(ops["phase"].tolist()):
        rows = np.flatnonzero(ops["phase"] == phase)
        seconds = floats(ops, "time_s")
        whole = float(seconds[rows].sum())
        for row in sorted(rows.tolist(), key=lambda i: -seconds[i])[:most]:
            yield _op_cells({name: column[row].item() for name, column in ops.items()}, whole)


def _op_cells(op: Mapping[str, Any], whole_s: float) -> tuple[str, ...]:
    seconds = op["time_s"] or math.inf
    return (
        op["phase"],
        op["part"],
        f"{op['count']:g}",
        shown(op["time_s"], "s"),
        shown(op["time_s"] / whole_s, "share"),
        f"{op['flop'] / seconds / 1e12:.3g}" if op["flop"] else "",
        f"{op['hbm_bytes'] / seconds / 1e12:.3g}" if op["hbm_bytes"] else "",
        shown(sum(op[f"{name}_j"] for name in ("compute", "memory", "link", "static")), "J"),
        op["bound"],
        f"{100 * op['half_width']:.0f} %",
        op["provenance"],
    )


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("interval", "bound", "provenance", "part") else "right")
    return table


def plain_rows(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as rows of dotted name and value."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from plain_rows(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
