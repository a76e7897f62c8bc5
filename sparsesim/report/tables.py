"""Tables for the terminal."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsesim.metrics.attributes import ATTRIBUTES, Attribute
from sparsesim.metrics.columns import floats
from sparsesim.report.plots.comparison import figure_of, figures_of, labelled
from sparsesim.report.words import described, interval_of, shown
from sparsesim.run import Run

if TYPE_CHECKING:
    from rich.table import Table

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
OP_COLUMNS = ("phase", "part", "count", "time", "share", "TFLOP/s", "TB/s", "energy", "bound", "±", "provenance")
RIGHT = (2, 3, 4, 5, 6, 7, 9)
"""Which of them are numbers."""
IN_TERMINAL = ("part", "time", "share", "energy", "bound", "±", "provenance")
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
    found = {name: run.summary.get(name) or {} for name in LATENCIES}
    rows = [
        (described(name).label, *(shown(own.get(key), "s") for key in STATISTICS))
        for name, own in found.items()
        if own.get("mean") is not None
    ]
    return _table(("latency", *STATISTICS), rows)


def summary_table(run: Run) -> Table:
    """Every single figure with its unit and interval."""
    rows = [(row.label, value, interval) for row, value, interval in figures(run)]
    for name, joules in (run.summary.get("energy_by_component_j") or {}).items():
        share = joules / run.summary["energy_j"] if run.summary.get("energy_j") else None
        rows.append((f"Energy, {name}", shown(joules, "J"), shown(share, "share") if share is not None else ""))
    return _table(("figure", "value", "interval"), rows)


def comparison_table(runs: Sequence[Run]) -> Table:
    """Figures of several runs side by side; of many runs a row each, with the figures that matter most."""
    if len(runs) > MANY:
        names, rows = key_figures(runs)
        return _table(("case", *names), [(title, *cells) for title, cells in rows])
    titles = [run.title for run in runs]
    return _table(("figure", *titles), [(labelled(name), *cells) for name, cells in side_by_side(runs)])


MANY = 5
"""Cases beyond which a page or terminal is too narrow for a column each."""


def key_figures(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Labels of the figures that cases are judged by, and each case's title and cells."""
    names = figures_of(runs)
    cells = [[shown(figure_of(run.summary, name), described(name).unit) for name in names] for run in runs]
    return [labelled(name) for name in names], list(zip([run.title for run in runs], cells, strict=True))


def side_by_side(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Every figure that any of the runs has, with its value in each."""
    names = [f"{name}.{key}" for name in LATENCIES for key in ("mean", "p50", "p99")]
    for name in (*names, *scalar_names(runs)):
        values = [figure_of(run.summary, name) for run in runs]
        if any(value is not None for value in values):
            yield name, [shown(value, described(name).unit) for value in values]


def ops_table(run: Run, most: int = 12) -> Table:
    """The ops of each phase by falling time: what they cost on one device and what bounds them; the rest in one row."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    kept = [number for number, name in enumerate(OP_COLUMNS) if name in IN_TERMINAL]
    rows = list(op_rows(run, most))
    for number in kept:
        widest = max((len(cells[number]) for cells in rows), default=0)
        least = widest if OP_COLUMNS[number] != "provenance" else None
        side: Literal["left", "right"] = "right" if number in RIGHT else "left"
        table.add_column(OP_COLUMNS[number], no_wrap=True, justify=side, min_width=least)
    for phase, own in itertools.groupby(rows, key=lambda cells: cells[0]):
        table.add_row(f"[bold]{phase}[/bold]")
        for cells in own:
            table.add_row(*(cells[number] for number in kept))
        table.add_section()
    return table


def op_rows(run: Run, most: int) -> Iterator[tuple[str, ...]]:
    """The most costly ops of each phase under `OP_COLUMNS`, and a row for the others."""
    ops = run.tables["ops"]
    for phase in dict.fromkeys(ops["phase"].tolist()):
        rows = np.flatnonzero(ops["phase"] == phase)
        seconds = floats(ops, "time_s")
        whole = float(seconds[rows].sum())
        order = sorted(rows.tolist(), key=lambda i: -seconds[i])
        for row in order[:most]:
            yield _op_cells({name: column[row].item() for name, column in ops.items()}, whole)
        if order[most:]:
            rest = float(seconds[order[most:]].sum())
            others = f"{len(order) - most} others"
            yield (phase, others, "", shown(rest, "s"), shown(rest / whole, "share"), *[""] * (len(OP_COLUMNS) - 5))


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


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Figures stay on one line; a heading is broken to their width, a long first column where there is no room."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(names[0], overflow="fold")
    for number, name in enumerate(names[1:], 1):
        widest = max((len(row[number]) for row in rows), default=0)
        heading = _folded(name, max(widest, LEAST_HEADING))
        side: Literal["left", "right"] = "left" if name == "interval" else "right"
        table.add_column(heading, justify=side, no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


LEAST_HEADING = 14
"""Characters that a heading gets where its figures are shorter."""


def _folded(text: str, width: int) -> str:
    """A text over lines, broken at spaces and behind equals signs."""
    lines = textwrap.wrap(text.replace("=", "= "), width)
    return "\n".join(line.replace("= ", "=") for line in lines)


def plain_rows(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as rows of dotted name and value."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from plain_rows(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
