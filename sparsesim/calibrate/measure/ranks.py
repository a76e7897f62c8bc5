"""Suites over several GPUs of one host: a process a GPU, all going through the same rows in step.

Rank 0 keeps the table. A row's time is the slowest rank's; its energy is the mean over the ranks' boards. NVLink
multicast (NVLS) stays off unless the environment says otherwise, and the `nvls` column must agree.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from sparsesim.calibrate.measure import session
from sparsesim.calibrate.measure.bench import GpuBench, TimingPlan
from sparsesim.calibrate.measure.collectives import Message, message
from sparsesim.calibrate.measure.plan import UnsupportedError
from sparsesim.calibrate.measure.rank_timing import RankClock
from sparsesim.calibrate.measure.suite import Row, Suite
from sparsesim.calibrate.measure.table import Table, column_names
from sparsesim.errors import InputError
from sparsesim.kernels.common.checks import relative_error

_HANG_S = 60
_BOUND = 1e-2


@dataclass(frozen=True, slots=True)
class _Job:
    suite: Suite
    out: Path
    budget_s: float
    device: str
    rendezvous: str


def measure(suite: Suite, out: Path, budget_s: float, device: str = "cuda") -> int:
    """Spawn the ranks and measure the suite; 1 where rows were refused.

    Raises:
        InputError: the machine has fewer GPUs than the suite asks for.

    """
    if device == "cuda" and torch.cuda.device_count() < suite.gpus:
        raise InputError(f"suite {suite.name} needs {suite.gpus} GPUs, there are {torch.cuda.device_count()}")
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(suite, out, budget_s, device, f"file://{folder}/rendezvous")
        torch.multiprocessing.spawn(_rank, (job,), nprocs=suite.gpus)
    return 1 if (out / f"{suite.name}.refused.txt").exists() else 0


def _rank(rank: int, job: _Job) -> None:
    backend = "nccl" if job.device == "cuda" else "gloo"
    here = torch.device(job.device, rank) if job.device == "cuda" else None
    if here is not None:
        torch.cuda.set_device(here)
    dist.init_process_group(
        backend,
        init_method=job.rendezvous,
        rank=rank,
        world_size=job.suite.gpus,
        timeout=timedelta(seconds=_HANG_S),
        device_id=here,
    )
    try:
        with torch.inference_mode():
            _measure_rows(rank, job)
    finally:
        dist.destroy_process_group()


def _measure_rows(rank: int, job: _Job) -> None:
    control = dist.new_group(backend="gloo") if job.device == "cuda" else dist.group.WORLD
    clock = RankClock(job.device, control)
    table = Table(_path(job), column_names(job.suite.ops()), _provenance(job)) if rank == 0 else None
    rows = clock.share(table.missing(job.suite.rows) if table else None)
    outcome = session.Outcome(already=len(job.suite.rows) - len(rows))
    progress = session.Progress(job.suite.name, rows)
    deadline = time.monotonic() + job.budget_s
    for index, row in enumerate(rows):
        begin = time.monotonic()
        if clock.share(begin >= deadline):
            outcome.left = len(rows) - index
            break
        try:
            cells = _measure(rank, row, clock)
            outcome.measured += 1
            if table:
                table.append(cells)
        except (session.WrongResultError, UnsupportedError) as error:
            outcome.refused.append((row, str(error)))
        if rank == 0:
            progress.step(index, time.monotonic() - begin)
    if rank == 0:
        _report(job, outcome)


def _measure(rank: int, row: Row, clock: RankClock) -> dict[str, str]:
    sent = message(row.op, rank, dist.get_world_size(), clock)
    largest, relative = _check(sent, clock, row)
    runner = clock.runner(sent.calls, bool(row.op.graph))
    timing = clock.time(runner)
    cells: dict[str, float | int | str | None] = {
        "measured_time_s": timing.median_s,
        "minimum_time_s": timing.minimum_s,
        "spread": timing.spread,
        "samples": timing.samples,
        "calls_per_sample": timing.calls_per_sample,
        "buffer_sets": len(set(map(id, sent.calls))),
        "backend": sent.backend,
        "max_abs_error": largest,
        "relative_error": relative,
    }
    if clock.device == "cuda":
        state = clock.probe.state()
        cells |= {"clock_mhz": state.clock_mhz, "temperature_c": state.temperature_c}
    if row.energy:
        cells |= clock.energy(runner, timing.median_s)
    return row.cells() | {"group": row.group} | session.written(cells)


def _check(sent: Message, clock: RankClock, row: Row) -> tuple[float, float]:
    """Largest absolute and relative error over the ranks, of one call on fresh buffers."""
    out, reference = sent.check()
    relative = relative_error(out, reference) if out.numel() else 0.0
    largest = float((out.double() - reference.double()).abs().max()) if out.numel() else 0.0
    largest, relative = clock.largest(largest), clock.largest(relative)
    if not relative <= _BOUND:
        raise session.WrongResultError(f"{row.op.op}: relative error {relative:.3g}, bound {_BOUND:g}")
    return largest, relative


def _path(job: _Job) -> Path:
    return job.out / f"{job.suite.name}.csv"


def _provenance(job: _Job) -> dict[str, str]:
    if job.device == "cpu":
        return {"what": job.suite.name, "device": f"cpu ({socket.gethostname()})", "date": time.strftime("%Y-%m-%d")}
    return GpuBench.header(job.suite.name, TimingPlan()) | {
        "gpus": str(job.suite.gpus),
        "NCCL_NVLS_ENABLE": os.environ["NCCL_NVLS_ENABLE"],
        "time": "of the slowest rank; all_reduce averages in place; energy is the mean over the ranks' boards",
    }


def _report(job: _Job, outcome: session.Outcome) -> None:
    session.report(job.suite.name, outcome, job.out / f"{job.suite.name}.refused.txt", set())
    sys.stderr.flush()
