"""What a run leaves behind: columns per request, per step or leap, per event and per replica.

A step row with `iterations` m, `first_s` a and `slope_s` b stands for m engine iterations of a + b*j seconds,
j = 0 .. m-1: boundary j is start_s + a*j + b*j*(j-1)/2, so every token's time follows in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.sim.log import STEP_ROW, Event, EventLog, RequestLog, StepLog
from sparsesim.sim.request import Outcome
from sparsesim.sim.steps import Floats, StepModel, leap_totals

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Records:
    """A run's tables; every column of a table has the table's length.

    Attributes:
        requests: request, client, priority, arrival_s, prompt_tok, output_tok, replica, admitted_s, first_token_s,
            finish_s (NaN where it did not happen), preemptions, cached_tok, generated_tok,
            outcome (a name of `Outcome`).
        steps: replica, start_s, end_s, iterations, decode (sequences that decode), context_tok (attended in the first
            iteration, summed over them), prefill_tok, chunks, output_tok, kv_blocks (in use at the end), running,
            waiting (at the end), first_s, slope_s, <component>_j.
        events: time_s, event (a name of `Event`), replica, request (-1 where none).
        replicas: replica, role (serve, prefill or decode), up_s, down_s, kv_blocks, idle_w, active_idle_w: one row per
            interval in which it drew power.
        components: of energy, in the order of the columns.
        end_s: the time at which the run ended.
        partial: whether it was interrupted.

    """

    requests: Columns
    steps: Columns
    events: Columns
    replicas: Columns
    components: tuple[str, ...]
    end_s: float
    partial: bool = False


def request_columns(log: RequestLog, count: int) -> Columns:
    """The request log as columns (the asked-for ones are added by the caller)."""
    names = np.array([outcome.name for outcome in Outcome])
    return {
        "request": np.arange(count, dtype=np.int64),
        "replica": np.array(log.replica, dtype=np.int32),
        "admitted_s": np.array(log.admitted),
        "first_token_s": np.array(log.first_token),
        "finish_s": np.array(log.finish),
        "preemptions": np.array(log.preemptions, dtype=np.int32),
        "cached_tok": np.array(log.cached, dtype=np.int64),
        "generated_tok": np.array(log.generated, dtype=np.int64),
        "outcome": names[np.array(log.outcome, dtype=np.int64)] if count else names[:0],
    }


def event_columns(log: EventLog) -> Columns:
    """The event log as columns, in order of time."""
    names = np.array([event.name for event in Event])
    rows = sorted(log.rows)
    kinds = np.array([row[1] for row in rows], dtype=np.int64)
    return {
        "time_s": np.array([row[0] for row in rows], dtype=np.float64),
        "event": names[kinds] if rows else names[:0],
        "replica": np.array([row[2] for row in rows], dtype=np.int32),
        "request": np.array([row[3] for row in rows], dtype=np.int64),
    }


def step_columns(log: StepLog, models: Sequence[StepModel]) -> Columns:
    """The step log as columns in order of start, with energies; `models` holds one per replica."""
    rows = log.table()
    energies = _energies(rows, log, models)
    order = np.argsort(rows["start_s"], kind="stable")
    rows, energies = rows[order], energies[order]
    columns: Columns = {}
    for name, (kind, *_) in (STEP_ROW.fields or {}).items():
        columns[name] = rows[name].astype(np.float64 if kind.kind == "f" else np.int64)
    m = rows["iterations"].astype(np.float64)
    columns["end_s"] = rows["start_s"] + rows["first_s"] * m + rows["slope_s"] * (m * (m - 1) / 2)
    for k, component in enumerate(models[0].components):
        columns[f"{component}_j"] = energies[:, k]
    return columns


def _energies(rows: npt.NDArray[np.void], log: StepLog, models: Sequence[StepModel]) -> Floats:
    """Joules by component of every row, [rows, components]."""
    components = len(models[0].components)
    energies = np.zeros((len(rows), components))
    mixed = np.flatnonzero(rows["chunks"] > 0)
    written = np.frombuffer(log.energies, dtype=np.float64)[: len(mixed) * components].reshape(-1, components)
    energies[mixed[: len(written)]] = written
    starts, growth = _coordinates(rows, log, models[0].windows)
    leaps = np.flatnonzero(rows["chunks"] == 0)
    for key in dict.fromkeys(map(id, models)):
        replicas = [i for i, model in enumerate(models) if id(model) == key]
        of_model = leaps[np.isin(rows["replica"][leaps], replicas)]
        for size, group in _by_value(rows["decode"], of_model):
            iterations = rows["iterations"][group].astype(np.float64)
            curve = models[replicas[0]].decode(size)
            energies[group] = leap_totals(curve, starts[group] / size, growth[group] / size, iterations)[:, 1:]
    return energies


def _by_value(column: npt.NDArray[np.generic], rows: npt.NDArray[np.intp]) -> list[tuple[int, npt.NDArray[np.intp]]]:
    """The rows grouped by their value in a column."""
    if not len(rows):
        return []
    rows = rows[np.argsort(column[rows], kind="stable")]
    values, firsts = np.unique(column[rows], return_index=True)
    return [(int(value), group) for value, group in zip(values, np.split(rows, firsts[1:]), strict=True)]


def _coordinates(rows: npt.NDArray[np.void], log: StepLog, windows: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Summed coordinates and their growth per iteration, [rows, channels]."""
    shape = (len(rows), len(windows))
    starts = np.broadcast_to(rows["context_tok"][:, None], shape).astype(np.float64)
    growth = np.broadcast_to(rows["decode"][:, None], shape).astype(np.float64)
    written = np.isfinite(windows) | np.isin(rows["replica"], list(log.explicit))[:, None]
    starts[written], growth[written] = log.coordinates(int(written.sum())).T
    return starts, growth
