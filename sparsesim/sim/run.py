"""The entry to the simulation: requests and replicas in, records out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from simpy.events import Timeout

from sparsesim.errors import InputError, Problem
from sparsesim.sim.admission import Admission
from sparsesim.sim.autoscale import Autoscale
from sparsesim.sim.faults import Faults
from sparsesim.sim.fleet import Fleet, Progress
from sparsesim.sim.pool import PoolSpec
from sparsesim.sim.records import Columns, Records, event_columns, request_columns, step_columns
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.base import Router
from sparsesim.sim.schedulers.base import Scheduler
from sparsesim.sim.transfer import Transfer
from sparsesim.workload.requests import RequestTable


def simulate_fleet(
    requests: RequestTable,
    replicas: Sequence[ReplicaSpec],
    router: Router,
    scheduler: Scheduler,
    *,
    until_s: float | None = None,
    progress: Progress | None = None,
    admission: Admission | None = None,
    faults: Faults | None = None,
    autoscale: Autoscale | None = None,
    seed: int = 0,
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
        admission: whom to turn away.
        faults: what fails and when.
        autoscale: replicas that come and go; `replicas` are those at the start, the first one the pattern.
        seed: of random faults and accepted drafts.

    Raises:
        InputError: no replica, replicas that do not go together, or lengths below 1.

    """
    check(requests, replicas)
    pool = PoolSpec(replicas, router, scheduler, autoscale)
    return play(Fleet(requests, pool, admission=admission, progress=progress, seed=seed), until_s, faults, seed)


def simulate_pools(
    requests: RequestTable,
    prefill: PoolSpec,
    decode: PoolSpec,
    transfer: Transfer,
    *,
    until_s: float | None = None,
    progress: Progress | None = None,
    admission: Admission | None = None,
    faults: Faults | None = None,
    seed: int = 0,
) -> Records:
    """Serve the requests disaggregated: one pool computes prompts, the other decodes, KV moves between them.

    A request's first token comes from its prefill replica, which keeps its KV until it has arrived. KV that waits for
    blocks of its decode replica waits outside the pool (in host memory). The other arguments are `simulate_fleet`'s;
    replicas are numbered from the first of the prefill pool to the last of the decode pool, then as they are added.

    Raises:
        InputError: as `simulate_fleet`, or a scheduler that knows no such role.

    """
    check(requests, [*prefill.replicas, *decode.replicas])
    fleet = Fleet(requests, prefill, decode, transfer, admission, progress, seed)
    return play(fleet, until_s, faults, seed)


def play(fleet: Fleet, until_s: float | None, faults: Faults | None, seed: int) -> Records:
    """Start what acts on the fleet, run it, and gather the records."""
    if faults is not None:
        faults.start(fleet, seed)
    for pool in fleet.pools:
        if pool.spec.autoscale is not None:
            pool.spec.autoscale.start(fleet, pool)
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
        if spec.host_blocks and spec.swap_s_per_block is None:
            text = f"{spec.host_blocks} blocks without swap_s_per_block"
            problems.append(Problem(text, path=f"replicas[{i}].host_blocks", hint="seconds to fetch a block"))
        cached = requests.prefix_blocks if spec.prefix_cache != "off" else None
        if cached is not None and (cached.block_tok % spec.block_tok or spec.kv_windows != (math.inf,)):
            text = f"prefix blocks of {cached.block_tok} tok on blocks of {spec.block_tok}, windows {spec.kv_windows}"
            hint = "whole blocks of full attention, one group"
            problems.append(Problem(text, path=f"replicas[{i}].prefix_cache", hint=hint))
    if problems:
        raise InputError(problems)


def run(fleet: Fleet, until_s: float | None) -> None:
    """Process events until all requests have ended, the horizon, or nothing can happen any more."""
    if until_s is not None:
        Timeout(fleet.env, until_s).callbacks.append(lambda _: fleet.stop())
    try:
        fleet.env.run(until=fleet.done)
    except RuntimeError:
        if fleet.done.triggered or fleet.env.peek() != math.inf:
            raise
        fleet.abandon()


def close(fleet: Fleet, partial: bool) -> Records:
    """Stop every replica and gather the records."""
    end_s = float(fleet.env.now)
    if not fleet.left:
        ends = (np.nanmax(np.array(one), initial=0.0) for one in (fleet.log.finish, fleet.arrived))
        end_s = float(max(ends))
    for replica in fleet.replicas:
        replica.close(end_s)
    columns = request_columns(fleet.log, len(fleet.table))
    models = [replica.spec.steps for replica in fleet.replicas]
    return Records(
        requests={"request": columns.pop("request"), **asked_columns(fleet), **columns},
        steps=step_columns(fleet.steps, models),
        events=event_columns(fleet.events),
        replicas=replica_columns(fleet, end_s),
        components=models[0].components,
        end_s=end_s,
        partial=partial,
    )


def asked_columns(fleet: Fleet) -> Columns:
    """What was asked, with the times at which requests came in the end."""
    table, arrived = fleet.table, np.array(fleet.arrived)
    return {
        "client": table.client,
        "priority": table.priority,
        "arrival_s": np.where(np.isnan(arrived), table.arrival_s, arrived),
        "prompt_tok": table.prompt_tok,
        "output_tok": table.output_tok,
    }


def replica_columns(fleet: Fleet, end_s: float) -> Columns:
    """The intervals in which replicas drew power, in order of replica and time."""
    intervals = sorted(fleet.intervals)
    specs = [fleet.replicas[index].spec for index, _, _ in intervals]
    return {
        "replica": np.array([index for index, _, _ in intervals], dtype=np.int32),
        "role": np.array([fleet.replicas[index].pool.role for index, _, _ in intervals]),
        "up_s": np.array([min(start, end_s) for _, start, _ in intervals]),
        "down_s": np.array([end_s if math.isnan(end) else min(end, end_s) for _, _, end in intervals]),
        "kv_blocks": np.array([spec.kv_blocks for spec in specs], dtype=np.int64),
        "idle_w": np.array([spec.steps.idle_w for spec in specs]),
        "active_idle_w": np.array([spec.steps.active_idle_w for spec in specs]),
    }
