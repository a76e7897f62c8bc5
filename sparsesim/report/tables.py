"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsesim.metrics.attributes import ATTRIBUTES
from sparsesim.report.plots.comparison import figure_of
from sparsesim.report.words import described, interval_of, shown
from sparsesim.run import Run

if TYPE_CHECKING:
    from rich.table import Table

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
STATISTICS = ("mean", "p50", "p90", "p99", "max")


def scalar_names(runs: Sequence[Run]) -> list[str]:
    """Figures of the table of attributes that are single numbers in any of the runs, in the table's order."""
    names = [row.name for row in ATTRIBUTES if row.table == "summary"]
    return [name for name in names if any(figure_of(run.summary, name) is not None for run in runs)]


def figures(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and meaning of every single figure of a run."""
    for name in scalar_names([run]):
        row = described(name)
        yield name, shown(figure_of(run.summary, name), row.unit), interval_of(run, name), row.meaning


def latency_table(run: Run) -> Table:
    """Mean and percentiles of the latencies."""
    table = _table("latency", *STATISTICS)
    for name in LATENCIES:
        found = run.summary.get(name)
        if found and found.get("mean") is not None:
            table.add_row(name.removesuffix("_s"), *(shown(found.get(key), "s") for key in STATISTICS))
    return table


def summary_table(run: Run) -> Table:
    """Every single figure with its unit and interval."""
    table = _table("figure", "value", "interval")
    for name, value, interval, _ in figures(run):
        table.add_row(name, value, interval)
    for name, joules in (run.summary.get("energy_by_component_j") or {}).items():
        share = joules / run.summary["energy_j"] if run.summary.get("energy_j") else None
        table.add_row(f"energy: {name}", shown(joules, "J"), shown(share, "share") if share is not None else "")
    return table


def comparison_table(runs: Sequence[Run]) -> Table:
    """Figures of several runs side by side."""
    table = _table("figure", *(run.title for run in runs))
    names = [f"{name}.{key}" for name in LATENCIES for key in ("p50", "p99")]
    means = [f"{name}.mean" for name in LATENCIES]
    for name in (*names, *means, *scalar_names(runs)):
        values = [figure_of(run.summary, name) for run in runs]
        if any(value is not None for value in values):
            table.add_row(name, *(shown(value, described(name).unit) for value in values))
    return table


def ops_table(run: Run, most: int = 30) -> Table:
    """The ops of each phase by falling time: what they cost and what bounds them."""
    table = _table("phase", "part", "count", "time", "share", "TFLOP/s", "TB/s", "energy", "bound", "+-", "provenance")
    for row in op_rows(run, most):
        table.add_row(*row)
    return table


def op_rows(run: Run, most: int) -> Iterator[tuple[str, ...]]:
    """The cells of `ops_table`; the most costly rows of each phase."""
    frame = run.frame("ops")
    for phase, ops in frame.groupby("phase", sort=False):
        whole = float(ops.time_s.sum())
        for op in ops.sort_values("time_s", ascending=False).head(most).itertuples():
            seconds: Any = op.time_s
            yield (
                str(phase),
                str(op.part),
                f"{op.count:g}",
                shown(seconds, "s"),
                shown(seconds / whole, "share"),
                f"{op.flop / seconds / 1e12:.3g}" if op.flop else "",
                f"{op.hbm_bytes / seconds / 1e12:.3g}" if op.hbm_bytes else "",
                shown(op.compute_j + op.memory_j + op.link_j + op.static_j, "J"),
                str(op.bound),
                f"{100 * op.half_width:.0f} %",
                str(op.provenance),
            )


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name in ("interval", "bound", "provenance", "part") else "right")
    return table


def plain_rows(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as rows of dotted name and value."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from plain_rows(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
