"""Progress on stderr, silent off a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, float], None]


@contextmanager
def watched(quiet: bool) -> Iterator[Callable[[str], Progress | None]]:
    """A maker of progress callbacks by name; each draws one bar until all requests have ended."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def watch(name: str) -> Callable[[int, int, float], None]:
            bar = bars.add_task(name, total=None)
            return lambda done, total, _: bars.update(bar, completed=done, total=total)

        yield watch
