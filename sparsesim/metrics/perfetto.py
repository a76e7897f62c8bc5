"""A run as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing show.

Each replica is a process: one track of steps and leaps, counters of batch, queue and KV blocks; requests are spans of
their own from arrival over first token to finish. Times are in microseconds, as the format has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.metrics.columns import floats
from sparsesim.sim.records import Columns

US = 1e6
REQUESTS_PID = 1_000_000
"""Process number of the requests' tracks, above every replica's."""
COUNTERS = ("running", "waiting", "kv_blocks")
STEP_ARGS = ("iterations", "decode", "context_tok", "prefill_tok", "chunks", "output_tok")


def events(tables: Mapping[str, Columns], replication: int = 0) -> Iterator[dict[str, Any]]:
    """Trace events of one replication."""
    steps, requests, others = (_of(tables[name], replication) for name in ("steps", "requests", "events"))
    for replica in np.unique(steps["replica"]).tolist():
        yield _named(replica, f"replica {replica}")
    yield _named(REQUESTS_PID, "requests")
    yield from _steps(steps)
    yield from _requests(requests)
    for time_s, event, replica, request in _rows(others, ("time_s", "event", "replica", "request")):
        base = {"ph": "i", "ts": time_s * US, "pid": replica, "tid": 0, "s": "p"}
        yield {**base, "name": event, "args": {"request": request}}


def _named(pid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}


def _steps(steps: Columns) -> Iterator[dict[str, Any]]:
    names = ("replica", "start_s", "end_s", *STEP_ARGS, *COUNTERS)
    for row in _rows(steps, names):
        cells = dict(zip(names, row, strict=True))
        base = {"pid": cells["replica"], "ts": cells["start_s"] * US}
        length = (cells["end_s"] - cells["start_s"]) * US
        text = _step_name(cells)
        yield {**base, "ph": "X", "name": text, "tid": 0, "dur": length, "args": {n: cells[n] for n in STEP_ARGS}}
        for name in COUNTERS:
            yield {**base, "ph": "C", "name": name, "tid": 0, "ts": cells["end_s"] * US, "args": {name: cells[name]}}


def _step_name(cells: Mapping[str, Any]) -> str:
    if cells["chunks"]:
        return f"prefill {cells['prefill_tok']} tok" + (f" + decode {cells['decode']}" if cells["decode"] else "")
    many = f" x {cells['iterations']}" if cells["iterations"] > 1 else ""
    return f"decode {cells['decode']}{many}"


def _requests(requests: Columns) -> Iterator[dict[str, Any]]:
    """Waiting for the first token and decoding, as two nested spans each."""
    names = ("request", "arrival_s", "first_token_s", "finish_s", "prompt_tok", "output_tok", "outcome")
    for number, arrival, first, finish, prompt, output, outcome in _rows(requests, names):
        if not np.isfinite(finish):
            continue
        base = {"cat": "request", "id": number, "pid": REQUESTS_PID, "tid": number}
        sizes = {"prompt_tok": prompt, "output_tok": output, "outcome": outcome}
        spans: tuple[tuple[str, float, float, dict[str, Any]], ...] = (
            (f"request {number}", arrival, finish, sizes),
            ("to first token", arrival, first, {}),
            ("decode", first, finish, {}),
        )
        for name, begin, end, args in spans:
            if np.isfinite(begin) and np.isfinite(end):
                yield {**base, "ph": "b", "name": name, "ts": begin * US, "args": args}
                yield {**base, "ph": "e", "name": name, "ts": end * US}


def _of(columns: Columns, replication: int) -> Columns:
    if "replication" not in columns:
        return columns
    rows = floats(columns, "replication") == replication
    return {name: column[rows] for name, column in columns.items()}


def _rows(columns: Columns, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(columns[name].tolist() for name in names), strict=True)


def write_perfetto(tables: Mapping[str, Columns], path: Path, replication: int = 0) -> Path:
    """Write the trace as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[')
        for number, event in enumerate(events(tables, replication)):
            file.write(("," if number else "") + "\n" + json.dumps(event, separators=(",", ":")))
        file.write("\n]}\n")
    return part.replace(path)
