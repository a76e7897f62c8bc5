"""Energy and power of the deployment's devices: what steps take, and what is drawn between them.

A device between two steps keeps its clocks up for a while and draws `active_idle_w`, then falls to `idle_w`
(facts: an H100 idles at 71 W at 345 MHz, and at about twice that while the clocks stay up).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.metrics.columns import by_replica, floats
from sparsesim.metrics.window import Window, binned
from sparsesim.sim.records import Columns, Records
from sparsesim.sim.steps import Floats

CLOCK_HOLD_S = 10.0
"""Seconds after a step for which the clocks stay up; assumed, no measurement of the decay is at hand."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Stretches between steps; every replica's, in no order."""

    start_s: Floats
    end_s: Floats
    energy_j: Floats


def idle(records: Records, hold_s: float = CLOCK_HOLD_S) -> Idle:
    """What the replicas draw while they are up and no step runs: at low clocks before their first step."""
    rows, none = by_replica(records.steps), np.zeros(0, np.int64)
    parts = [
        _idle_of(records.steps, rows.get(int(replica), none), records.replicas, number, hold_s)
        for number, replica in enumerate(records.replicas["replica"])
    ]
    start, end, watts = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
    kept = end > start
    start, end = start[kept], end[kept]
    return Idle(start, end, watts[kept] * (end - start))


def _idle_of(steps: Columns, mine: npt.NDArray[np.int64], replicas: Columns, number: int, hold_s: float) -> Floats:
    """Begin, end and power of the stretches of one up-time, [3, stretches]; `mine` are its replica's rows."""
    up, down = (float(replicas[name][number]) for name in ("up_s", "down_s"))
    start, stop = floats(steps, "start_s")[mine], floats(steps, "end_s")[mine]
    inside = (stop >= up) & (start < down)
    begin = np.concatenate([[up], np.minimum(stop[inside], down)])
    end = np.concatenate([start[inside], [down]])
    held = np.minimum(begin + hold_s, end)
    held[0] = begin[0]
    watts = np.repeat([float(replicas["active_idle_w"][number]), float(replicas["idle_w"][number])], len(begin))
    return np.stack([np.concatenate([begin, held]), np.concatenate([held, end]), watts])


def energy_by_component(records: Records, window: Window, between: Idle | None = None) -> dict[str, float]:
    """Joules inside the window by component of the steps, and `idle`."""
    between = idle(records) if between is None else between
    steps = records.steps
    shares = window.shares(floats(steps, "start_s"), floats(steps, "end_s"))
    found = {name: float(shares @ floats(steps, f"{name}_j")) for name in records.components}
    found["idle"] = float(window.shares(between.start_s, between.end_s) @ between.energy_j)
    return found


BINS = 400
"""Intervals of the power table: as many as a picture shows."""


def timeline(records: Records, bins: int = BINS, between: Idle | None = None) -> Columns:
    """Mean power by component, batch, queue and KV use in equal intervals; its integral is the energy of
    the run.
    """
    between = idle(records) if between is None else between
    steps, edges = records.steps, np.linspace(0.0, max(records.end_s, np.finfo(float).tiny), bins + 1)
    start, end, width = floats(steps, "start_s"), floats(steps, "end_s"), np.diff(edges)
    columns: Columns = {"start_s": edges[:-1], "end_s": edges[1:]}
    for name in records.components:
        columns[f"{name}_w"] = binned(start, end, floats(steps, f"{name}_j"), edges) / width
    columns["idle_w"] = binned(between.start_s, between.end_s, between.energy_j, edges) / width
    watts = [floats(columns, f"{name}_w") for name in (*records.components, "idle")]
    columns["total_w"] = np.sum(watts, axis=0)
    for name in ("running", "waiting", "kv_blocks"):
        columns[name] = binned(start, end, floats(steps, name) * (end - start), edges) / width
    return columns
