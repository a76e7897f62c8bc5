"""The entry to the simulation: requests and replicas in, records out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from simpy.events import Timeout

from sparsesim.errors import InputError, Problem
from sparsesim.sim.fleet import Fleet, Progress
from sparsesim.sim.records import Records, event_columns, request_columns, step_columns
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.base import Router
from sparsesim.sim.schedulers.base import Scheduler
from sparsesim.workload.requests import RequestTable


def simulate_fleet(
    requests: RequestTable,
    replicas: Sequence[ReplicaSpec],
    router: Router,
    scheduler: Scheduler,
    *,
    until_s: float | None = None,
    progress: Progress | None = None,
) -> Records:
    """Serve the requests on the replicas.

    The run ends when every request has ended, or at `until_s`; what is then unfinished has that outcome. Interrupted
    from the keyboard, it returns what it has, marked partial.

    Args:
        requests: what is asked, and when.
        replicas: what serves it; all with the same attention windows and energy components.
        router: which replica a request goes to.
        scheduler: how a replica forms its batch.
        until_s: the simulated time at which to stop.
        progress: called now and then with (requests ended, all requests, simulated time in s).

    Raises:
        InputError: no replica, replicas that do not go together, or lengths below 1.

    """
    check(requests, replicas)
    fleet = Fleet(requests, replicas, router, scheduler, progress)
    partial = False
    try:
        run(fleet, until_s)
    except KeyboardInterrupt:
        partial = True
    return close(fleet, partial)


def check(requests: RequestTable, replicas: Sequence[ReplicaSpec]) -> None:
    """Refuse what cannot be simulated, all problems at once."""
    problems = []
    if not replicas:
        problems.append(Problem("0 replicas", path="replicas", hint="at least 1"))
    for name in ("prompt_tok", "output_tok"):
        column = getattr(requests, name)
        if (column < 1).any():
            row = int(np.argmax(column < 1))
            problems.append(Problem(f"{column[row]}", path=f"requests.{name}[{row}]", hint="at least 1 tok"))
    if requests.concurrency is not None and requests.concurrency < 1:
        problems.append(Problem(f"{requests.concurrency}", path="requests.concurrency", hint="at least 1"))
    for i, spec in enumerate(replicas):
        same = (spec.steps.windows, spec.steps.components) == (replicas[0].steps.windows, replicas[0].steps.components)
        if not same:
            problems.append(
                Problem("differs from replica 0 in attention windows or energy components", path=f"replicas[{i}]")
            )
        if spec.block_tok < 1 or spec.kv_blocks < 0:
            problems.append(
                Problem(
                    f"{spec.kv_blocks} blocks of {spec.block_tok} tok",
                    path=f"replicas[{i}]",
                    hint="at least 0 blocks of 1 tok",
                )
            )
        cached = requests.prefix_blocks if spec.prefix_cache != "off" else None
        if cached is not None and (cached.block_tok % spec.block_tok or spec.kv_windows != (math.inf,)):
            text = f"prefix blocks of {cached.block_tok} tok on blocks of {spec.block_tok}, windows {spec.kv_windows}"
            hint = "whole blocks of full attention, one group"
            problems.append(Problem(text, path=f"replicas[{i}].prefix_cache", hint=hint))
    if problems:
        raise InputError(problems)


def run(fleet: Fleet, until_s: float | None) -> None:
    """Process events until all requests have ended or the horizon."""
    if until_s is not None:
        Timeout(fleet.env, until_s).callbacks.append(lambda _: fleet.stop())
    fleet.env.run(until=fleet.done)


def close(fleet: Fleet, partial: bool) -> Records:
    """Stop every replica and gather the records."""
    end_s = float(fleet.env.now)
    if not fleet.left:
        end_s = float(
            max(np.nanmax(np.array(fleet.log.finish), initial=0.0), np.nanmax(np.array(fleet.arrived), initial=0.0))
        )
    for replica in fleet.replicas:
        replica.close(end_s)
    columns = request_columns(fleet.log, len(fleet.table))
    table = fleet.table
    arrived = np.array(fleet.arrived)
    asked = {
        "client": table.client,
        "priority": table.priority,
        "arrival_s": np.where(np.isnan(arrived), table.arrival_s, arrived),
        "prompt_tok": table.prompt_tok,
        "output_tok": table.output_tok,
    }
    models = [replica.spec.steps for replica in fleet.replicas]
    specs = [replica.spec for replica in fleet.replicas]
    return Records(
        requests={"request": columns.pop("request"), **asked, **columns},
        steps=step_columns(fleet.steps, models),
        events=event_columns(fleet.events),
        replicas={
            "replica": np.arange(len(specs), dtype=np.int32),
            "up_s": np.zeros(len(specs)),
            "down_s": np.full(len(specs), end_s),
            "kv_blocks": np.array([spec.kv_blocks for spec in specs], dtype=np.int64),
            "idle_w": np.array([spec.steps.idle_w for spec in specs]),
            "active_idle_w": np.array([spec.steps.active_idle_w for spec in specs]),
        },
        components=models[0].components,
        end_s=end_s,
        partial=partial,
    )
