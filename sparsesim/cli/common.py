"""What commands share: options, errors as exit codes, and where output goes."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsesim.errors import SparsesimError

if TYPE_CHECKING:
    from rich.table import Table

INTERRUPTED = 130


class Format(StrEnum):
    """How a command answers on stdout."""

    table = "table"
    json = "json"
    csv = "csv"


Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key: path.to.key=value.", metavar="KEY=VALUE")
]
FormatOption = Annotated[Format, typer.Option("--format", help="What stdout carries.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.", file_okay=False)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Instead of simulation.seed.")]
Replications = Annotated[int | None, typer.Option("--replications", min=1, help="Instead of simulation.replications.")]


@contextmanager
def reported() -> Iterator[None]:
    """User's errors become a message on stderr and their exit code; Ctrl-C becomes 130."""
    try:
        yield
    except SparsesimError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(2)


def settings_of(settings: Sequence[str] | None, seed: int | None, replications: int | None) -> list[str]:
    """`--set` with the shorthand options appended."""
    found = list(settings or [])
    found += [f"simulation.seed={seed}"] if seed is not None else []
    found += [f"simulation.replications={replications}"] if replications is not None else []
    return found


def print_json(value: Any) -> None:
    """JSON alone on stdout; what is not a number becomes null."""
    typer.echo(json.dumps(value, indent=2, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


LONGEST_WORD = 24
"""Characters up to which a word of a table is never broken over lines."""


def print_rows(rows: Sequence[Mapping[str, Any]], style: Format, title: str = "") -> None:
    """Rows with equal keys as a table, JSON or CSV."""
    if style is Format.json:
        print_json(list(rows))
    elif style is Format.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        typer.echo(text.getvalue(), nl=False)
    else:
        _print_table(rows, title)


def _print_table(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console

    console = Console(soft_wrap=False)
    table = _table(rows, title, tight=False)
    if console.measure(table, options=console.options.update(width=10_000)).maximum > console.width:
        table = _table(rows, title, tight=True)
    console.print(table)


def _table(rows: Sequence[Mapping[str, Any]], title: str, tight: bool) -> Table:
    """Numbers stay on one line and words whole; a tight table has narrow gaps and breaks texts over lines."""
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.padding = (0, 1, 0, 0) if tight else (0, 1)
    for name in list(rows[0]) if rows else []:
        number = all(isinstance(row[name], int | float) or row[name] in ("", None) for row in rows)
        justify: Literal["left", "right"] = "right" if number else "left"
        heading, cells = name.replace(".", " "), [_cell(row[name]) for row in rows]
        words = [word for text in (heading, *cells) for word in text.split()]
        least = min(max(map(len, words), default=0), LONGEST_WORD)
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=number, min_width=least if tight else None)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
