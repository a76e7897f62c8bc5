"""Going through a suite: check, time, record, within a budget of seconds, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.buffers import NoRoomError
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError
from sparsesim.calibrate.measure.suite import Row, Suite
from sparsesim.calibrate.measure.table import Table
from sparsesim.kernels.common.checks import relative_error
from sparsesim.kernels.common.requirements import KernelRequirementError

Prepare = Callable[[Row, Bench], Sequence[Candidate]]


class WrongResultError(RuntimeError):
    """No backend's result agreed with its reference."""


class DeviceLostError(RuntimeError):
    """A CUDA error after which the process can measure nothing more."""


_NOTE_CHARACTERS = 120
_EXPECTED = (WrongResultError, UnsupportedError, KernelRequirementError, NoRoomError, NotImplementedError)


@dataclass(slots=True)
class Outcome:
    """What became of a suite's rows: refused ones carry the reason."""

    measured: int = 0
    already: int = 0
    left: int = 0
    refused: list[tuple[Row, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Checked:
    candidate: Candidate
    max_abs: float
    relative: float


class Progress:
    """A plain line every few seconds: rows done, elapsed, about how long is left."""

    def __init__(self, name: str, rows: Sequence[Row], period_s: float = 5.0) -> None:
        self._name, self._rows, self._period_s = name, list(rows), period_s
        self._begin = self._shown = time.monotonic()
        self._spent: dict[bool, list[float]] = {True: [], False: []}

    def step(self, index: int, seconds: float) -> None:
        """Row `index` took so long."""
        self._spent[self._rows[index].energy].append(seconds)
        now = time.monotonic()
        if now - self._shown >= self._period_s or index + 1 == len(self._rows):
            self._shown = now
            done, last = index + 1, self._rows[index]
            print(
                f"{self._name}: {done}/{len(self._rows)} rows, {now - self._begin:.0f} s, "
                f"about {self.left_s(done):.0f} s left; last {last.op.op} {last.group}",
                file=sys.stderr,
                flush=True,
            )

    def left_s(self, done: int) -> float:
        """Mean seconds of the rows so far, energy rows apart, times the rows left of either sort."""
        everything = self._spent[True] + self._spent[False]
        left = 0.0
        for energy, spent in self._spent.items():
            count = sum(row.energy is energy for row in self._rows[done:])
            sample = spent or everything
            left += count * (sum(sample) / len(sample) if sample else 0.0)
        return left


def run(suite: Suite, table: Table, bench: Bench, prepare: Prepare, budget_s: float, skip: set[str]) -> Outcome:
    """Measure what the table lacks, until done or out of budget; keys in `skip` are refused unmeasured."""
    rows = table.missing(suite.rows)
    outcome = Outcome(already=len(suite.rows) - len(rows))
    progress = Progress(suite.name, rows)
    deadline = time.monotonic() + budget_s
    for index, row in enumerate(rows):
        begin = time.monotonic()
        if begin >= deadline:
            outcome.left = len(rows) - index
            break
        if describe(row) in skip:
            outcome.refused.append((row, "refused before; --retry-refused measures it again"))
            continue
        try:
            table.append(measure(row, bench, prepare))
            outcome.measured += 1
        except Exception as error:  # a backend may fail in any way of its own: the row is refused, by name
            expected = isinstance(error, _EXPECTED)
            outcome.refused.append((row, str(error) if expected else f"{type(error).__name__}: {error}"))
            if "CUDA error" in str(error):
                raise DeviceLostError(describe(row)) from error
        progress.step(index, time.monotonic() - begin)
    return outcome


def check(rows: Sequence[Row], bench: Bench, prepare: Prepare) -> list[tuple[Row, str]]:
    """Run each row's backends once against their references, nothing timed; the rows that no backend gets right.

    Compiles what timing will need: with several shards in parallel, the rest of a session compiles nothing.
    """
    refused = []
    for row in rows:
        bench.inputs.reset()
        bench.outputs.reset()
        try:
            _checked(prepare(row, bench))
        except Exception as error:  # as in `run`
            if "CUDA error" in str(error):
                raise DeviceLostError(describe(row)) from error
            refused.append((row, _first_line(error)))
    return refused


def describe(row: Row) -> str:
    """One line that identifies a row."""
    return " ".join(f"{name}={value}" for name, value in row.cells().items())


def measure(row: Row, bench: Bench, prepare: Prepare) -> dict[str, str]:
    """Check and time one row; its cells.

    Raises:
        WrongResultError: no backend's result agreed with its reference.
        UnsupportedError: no backend can run it.

    """
    bench.inputs.reset()
    bench.outputs.reset()
    good, notes = _checked(prepare(row, bench))
    graph = bool(row.op.graph)
    timings = bench.time({c.candidate.backend: c.candidate.calls for c in good}, graph)
    best = min(good, key=lambda c: timings[c.candidate.backend].median_s)
    timing = timings[best.candidate.backend]
    state = bench.state()
    notes = {name: f"{t.median_s:.6g}" for name, t in timings.items()} | notes
    cells: dict[str, float | int | str | None] = {
        "measured_time_s": timing.median_s,
        "minimum_time_s": timing.minimum_s,
        "spread": timing.spread,
        "samples": timing.samples,
        "calls_per_sample": timing.calls_per_sample,
        "buffer_sets": len(best.candidate.calls),
        "clock_mhz": state.clock_mhz,
        "temperature_c": state.temperature_c,
        "backend": best.candidate.backend,
        "max_abs_error": best.max_abs,
        "relative_error": best.relative,
    }
    if row.energy:
        energy = bench.energy(best.candidate.calls, graph)
        notes["burst"] = f"{timing.median_s:.6g}"
        cells |= {
            "measured_time_s": energy.call_s,
            "minimum_time_s": None,
            "spread": None,
            "samples": 1,
            "calls_per_sample": energy.calls,
            "measured_energy_j": energy.call_j,
            "memory_j": None if energy.memory_w is None else energy.memory_w * energy.call_s,
            "power_w": energy.power_w,
            "memory_power_w": energy.memory_w,
            "clock_mhz": energy.state.clock_mhz,
            "temperature_c": energy.state.temperature_c,
        }
    alternatives = ";".join(f"{name}={value}" for name, value in notes.items()) if len(notes) > 1 else ""
    return row.cells() | {"group": row.group, "alternatives": alternatives} | written(cells)


def report(name: str, outcome: Outcome, refused_file: Path, skip: set[str]) -> int:
    """List what was refused and why, and keep the list for the next run; 1 where anything was."""
    print(
        f"{name}: {outcome.measured} rows measured, {outcome.already} there before, {outcome.left} left for lack "
        f"of time, {len(outcome.refused)} refused",
        file=sys.stderr,
    )
    for row, reason in outcome.refused:
        print(f"  refused: {describe(row)}: {reason}", file=sys.stderr)
    if outcome.refused:
        names = sorted(skip | {describe(row) for row, _ in outcome.refused})
        refused_file.write_text("\n".join(names) + "\n")
    return 1 if outcome.refused else 0


def _checked(candidates: Sequence[Candidate]) -> tuple[list[_Checked], dict[str, str]]:
    """Backends whose result is right; and of the others, why not."""
    good, notes, wrong = [], {}, False
    for candidate in candidates:
        try:
            part, reference = candidate.check(candidate.calls[0]())
        except UnsupportedError as error:
            notes[candidate.backend] = f"unsupported ({error})"
            continue
        except Exception as error:  # Triton's errors have no common base: another backend may still serve
            if "CUDA error" in str(error) or isinstance(error, torch.OutOfMemoryError):
                raise
            notes[candidate.backend] = f"unsupported ({_first_line(error)[:_NOTE_CHARACTERS]})"
            continue
        relative = relative_error(part, reference)
        if relative <= candidate.bound:
            largest = float((part.double() - reference.double().to(part.device)).abs().max())
            good.append(_Checked(candidate, largest, relative))
        else:
            wrong = True
            notes[candidate.backend] = f"wrong (relative error {relative:.3g}, bound {candidate.bound:g})"
    if not good:
        reasons = "; ".join(f"{name}: {note}" for name, note in notes.items())
        raise WrongResultError(reasons) if wrong else UnsupportedError(reasons)
    return good, {name: note.replace(";", ",") for name, note in notes.items()}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def written(cells: Mapping[str, float | int | str | None]) -> dict[str, str]:
    """Measured cells as written to CSV."""
    return {n: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for n, v in cells.items()}
