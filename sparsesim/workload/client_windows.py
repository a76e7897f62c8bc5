"""Readers of ServeGen's client files; see `arrivals/servegen.py` for what they mean."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.workload.requests import Floats, Ints
from sparsesim.workload.traces.base import Faults, locate

LAWS = ("Gamma", "Weibull", "")


@dataclass(frozen=True)
class ClientWindows:
    """One row per window: start (s), rate (1/s), law of the gaps and its shape; the last lasts as long as
    the first.
    """

    start_s: tuple[float, ...]
    rate_per_s: tuple[float, ...]
    law: tuple[str, ...]
    shape: tuple[float, ...]

    def after(self, start_s: float) -> Iterator[tuple[float, float, float, str, float]]:
        """Begin, end (s after `start_s`), rate, law and shape of every window that ends after `start_s`."""
        last = self.start_s[-1] + (self.start_s[1] - self.start_s[0] if len(self.start_s) > 1 else math.inf)
        for i, end in enumerate((*self.start_s[1:], last)):
            if end > start_s:
                begin = max(self.start_s[i], start_s)
                yield begin - start_s, end - start_s, self.rate_per_s[i], self.law[i], self.shape[i]


@dataclass(frozen=True)
class Distribution:
    """Lengths in ascending order with their distribution function."""

    lengths: Ints
    below: Floats

    def invert(self, uniform: Floats) -> Ints:
        """The lengths at which the distribution function passes the given numbers in [0, 1)."""
        return self.lengths[np.searchsorted(self.below[:-1], uniform, side="right")]


@dataclass(frozen=True)
class LengthWindows:
    """Distributions of prompt and output lengths by window."""

    start_s: Floats
    prompt: tuple[Distribution, ...]
    output: tuple[Distribution, ...]


def read_windows(file: str, folder: Path | None) -> ClientWindows:
    """The windows of a client.

    Raises:
        InputError: with every malformed line.

    """
    path = locate(file, folder)
    return _windows(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _windows(path: Path, modified_ns: int) -> ClientWindows:
    del modified_ns
    faults = Faults(path)
    rows = [
        row
        for line, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1)
        if text.strip() and (row := _window(faults, line, text.split(","))) is not None
    ]
    if any(b[0] <= a[0] for a, b in pairwise(rows)):
        faults.add(1, "window starts do not ascend")
    if not rows:
        faults.add(1, "holds no window")
    faults.raise_any()
    start_s, rate, law, shape = zip(*rows, strict=True)
    return ClientWindows(start_s, rate, law, shape)


def _window(faults: Faults, line: int, cells: list[str]) -> tuple[float, float, str, float] | None:
    if len(cells) != 6:
        faults.add(line, f"has {len(cells)} columns, not 6: start, rate, cv, law, shape, scale")
        return None
    law = cells[3].strip()
    rate, shape = faults.seconds(line, "rate", cells[1]), faults.seconds(line, "shape", cells[4])
    if law not in LAWS:
        faults.add(line, f"law is {law!r}, not Gamma, Weibull or empty")
    elif rate > 0 and (law == "" or shape == 0):
        faults.add(line, f"rate {rate} without a law of gaps")
    return faults.seconds(line, "window start", cells[0]), rate, law, shape


def read_lengths(file: str, folder: Path | None) -> LengthWindows:
    """The distributions of a client; windows without any request are left out.

    Raises:
        InputError: naming every window that cannot be read.

    """
    path = locate(file, folder)
    return _lengths(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _lengths(path: Path, modified_ns: int) -> LengthWindows:
    del modified_ns
    try:
        windows = json.loads(path.read_text(encoding="utf-8"))
        starts = sorted(windows, key=float)
    except (ValueError, TypeError) as error:
        raise InputError(Problem(f"is not JSON of windows by their start: {error}", place=str(path))) from None
    faults: list[Problem] = []
    rows = []
    for start in starts:
        sides = [_distribution(windows[start], key, f"{path}: window {start}", faults) for key in _SIDES]
        if sides[0] is not None and sides[1] is not None:
            rows.append((float(start), sides[0], sides[1]))
    if faults or not rows:
        raise InputError(faults or Problem("holds no window with lengths", place=str(path)))
    start_s, prompt, output = zip(*rows, strict=True)
    return LengthWindows(np.array(start_s), prompt, output)


_SIDES = ("input_tokens", "output_tokens")


def _distribution(window: object, key: str, place: str, faults: list[Problem]) -> Distribution | None:
    """The distribution written as a Python dict in a string; None for an empty one."""
    try:
        table = ast.literal_eval(window[key])  # type: ignore[index]
        lengths = np.array(sorted(table), dtype=np.int64)
        weights = np.array([float(table[length]) for length in lengths.tolist()])
    except (ValueError, TypeError, KeyError, SyntaxError) as error:
        faults.append(Problem(f"{key} is not a mapping of lengths to probabilities: {error}", place=place))
        return None
    if len(lengths) == 0:
        return None
    if lengths[0] < 0 or weights.min() < 0 or weights.sum() <= 0:
        faults.append(Problem(f"{key} has a negative length or probability, or none above 0", place=place))
        return None
    return Distribution(np.maximum(lengths, 1), np.cumsum(weights) / weights.sum())
