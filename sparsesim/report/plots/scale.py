"""Units of axes: the prefix that makes numbers short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TIMES = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))
_PREFIXES = (
    (1e-12, "p"),
    (1e-9, "n"),
    (1e-6, "µ"),
    (1e-3, "m"),
    (1.0, ""),
    (1e3, "k"),
    (1e6, "M"),
    (1e9, "G"),
    (1e12, "T"),
)


def time_unit(largest_s: float) -> tuple[float, str]:
    """Seconds per unit, and the unit, for an axis up to `largest_s`: ms up to 3 s, minutes from 5 on."""
    if largest_s > 5 * 3600:
        return 3600.0, "h"
    if largest_s > 300:
        return 60.0, "min"
    return _first(_TIMES[:3], largest_s / 3.0)


def prefix(largest: float, unit: str) -> tuple[float, str]:
    """Base units per shown unit, and the unit with its prefix, for an axis up to `largest`."""
    factor, letter = _first(_PREFIXES, largest)
    return factor, f"{letter}{unit}"


def _first(steps: Sequence[tuple[float, str]], largest: float) -> tuple[float, str]:
    fitting = [step for step in steps if step[0] <= largest]
    return fitting[-1] if fitting else steps[0]


def short(value: float) -> str:
    """A number as an axis shows it: 0.02, 3, 16,384, 131.1k, 2M."""
    for least, factor, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e5, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / factor:.4g}{letter}"
    return f"{value:,g}"


def plain_ticks(axis: Any, few: bool = True) -> None:
    """Ticks of a logarithmic axis as plain numbers, with `few` decades at 1, 2 and 5 of each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())
