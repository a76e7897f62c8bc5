"""Suites over several GPUs of one host: a process a GPU, all going through the same rows in step.

Rank 0 keeps the table. A row's time is the slowest rank's; its energy is the mean over the ranks' boards. NVLink
multicast (NVLS) is off, which every row says. Layers on a host are checked, their times left empty: they are no
measurement of anything.
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
from typing import Any

import torch
import torch.distributed as dist

from sparsesim.calibrate.measure import session
from sparsesim.calibrate.measure.bench import GpuBench, TimingPlan
from sparsesim.calibrate.measure.collectives import message
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer
from sparsesim.calibrate.measure.expert_parallel.rows import COLUMNS, Cells, LayerRows
from sparsesim.calibrate.measure.expert_parallel.run import draws
from sparsesim.calibrate.measure.plan import UnsupportedError
from sparsesim.calibrate.measure.rank_timing import RankClock
from sparsesim.calibrate.measure.suite import Row, Suite
from sparsesim.calibrate.measure.table import Table, column_names
from sparsesim.errors import InputError
from sparsesim.kernels.common.checks import relative_error

_HANG_S = 60
_NVLS = "NCCL_NVLS_ENABLE"
_BOUND = 1e-2


@dataclass(frozen=True, slots=True)
class _Job:
    suite: Suite
    out: Path
    budget_s: float
    device: str
    rendezvous: str
    check_only: bool


def measure(suite: Suite, out: Path, budget_s: float, device: str = "cuda", *, check_only: bool = False) -> int:
    """Spawn the ranks and measure the suite; 1 where rows were refused. `check_only` times and records nothing.

    Raises:
        InputError: the machine has fewer GPUs than the suite asks for, or NVLS is switched on.

    """
    if device == "cuda" and torch.cuda.device_count() < suite.gpus:
        raise InputError(f"suite {suite.name} needs {suite.gpus} GPUs, there are {torch.cuda.device_count()}")
    if os.environ.setdefault(_NVLS, "0") != "0":
        raise InputError(f"{_NVLS} is {os.environ[_NVLS]!r}; rows are measured without NVLink multicast: set it to 0")
    refused = out / f"{suite.name}.refused.txt"
    refused.unlink(missing_ok=True)  # ranks try every row that is missing again
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(suite, out, budget_s, device, f"file://{folder}/rendezvous", check_only)
        torch.multiprocessing.spawn(_rank, (job,), nprocs=suite.gpus)
    return 1 if refused.exists() else 0


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
    table = Table(_path(job), _columns(job.suite), _provenance(job)) if rank == 0 and not job.check_only else None
    rows = list(job.suite.rows) if job.check_only else clock.share(table.missing(job.suite.rows) if table else None)
    outcome = session.Outcome(already=len(job.suite.rows) - len(rows))
    progress = session.Progress(job.suite.name, rows)
    bench = _RankBench(rank, clock, LayerRows(rank, clock), job.check_only)
    deadline = time.monotonic() + job.budget_s
    for index, row in enumerate(rows):
        begin = time.monotonic()
        if clock.share(begin >= deadline):
            outcome.left = len(rows) - index
            break
        try:
            cells = bench.measure(row)
            outcome.measured += 1
            if table:
                table.append(cells)
        except (session.WrongResultError, UnsupportedError) as error:
            outcome.refused.append((row, str(error)))
        if rank == 0:
            progress.step(index, time.monotonic() - begin)
    if rank == 0:
        _report(job, outcome)


@dataclass(frozen=True, slots=True)
class _RankBench:
    """Checks and times rows on this rank."""

    rank: int
    clock: RankClock
    layers: LayerRows
    check_only: bool

    def measure(self, row: Row) -> dict[str, str]:
        """A row's cells; a layer's are timed on GPUs only."""
        cells = self._layer(row, row.layer) if row.layer else self._message(row)
        if self.clock.device == "cuda":
            state = self.clock.probe.state()
            cells |= {"clock_mhz": state.clock_mhz, "temperature_c": state.temperature_c}
        cells["nccl_nvls_enable"] = os.environ[_NVLS]
        return row.cells() | {"group": row.group} | session.written(cells)

    def _message(self, row: Row) -> Cells:
        sent = message(row.op, self.rank, dist.get_world_size(), self.clock)
        cells = _agreed(sent.check(), self.clock, row)
        if self.check_only:
            return cells
        runner = self.clock.runner(sent.calls, bool(row.op.graph))
        timing = self.clock.time(runner)
        cells |= {
            "measured_time_s": timing.median_s,
            "minimum_time_s": timing.minimum_s,
            "spread": timing.spread,
            "samples": timing.samples,
            "calls_per_sample": timing.calls_per_sample,
            "buffer_sets": len(set(map(id, sent.calls))),
            "backend": sent.backend,
        }
        return cells | (self.clock.energy(runner, timing.median_s) if row.energy else {})

    def _layer(self, row: Row, layer: ExpertLayer) -> Cells:
        cells = _agreed(self.layers.checked(layer), self.clock, row)
        cells |= {"buffer_sets": draws(layer), "backend": "triton+nccl" if self.clock.device == "cuda" else "host+gloo"}
        if self.check_only or self.clock.device == "cpu":
            return cells
        cells |= self.layers.timed(layer, row.op.op)
        if row.energy:
            cells |= self.layers.energy(layer, row.op.op, float(str(cells["measured_time_s"])))
        return cells


def _agreed(checked: tuple[Any, Any], clock: RankClock, row: Row) -> Cells:
    """Largest absolute and relative error over the ranks, of one call on fresh buffers."""
    out, reference = checked
    relative = relative_error(out, reference) if out.numel() else 0.0
    largest = float((out.double() - reference.double()).abs().max()) if out.numel() else 0.0
    largest, relative = clock.largest(largest), clock.largest(relative)
    if not relative <= _BOUND:
        raise session.WrongResultError(f"{row.op.op}: relative error {relative:.3g}, bound {_BOUND:g}")
    return {"max_abs_error": largest, "relative_error": relative}


def _columns(suite: Suite) -> list[str]:
    layered = any(row.layer for row in suite.rows)
    return column_names(suite.ops(), ["boards_power_w", "nccl_nvls_enable", *(COLUMNS if layered else ())])


def _path(job: _Job) -> Path:
    return job.out / f"{job.suite.name}.csv"


def _provenance(job: _Job) -> dict[str, str]:
    if job.device == "cpu":
        return {"what": job.suite.name, "device": f"cpu ({socket.gethostname()})", "date": time.strftime("%Y-%m-%d")}
    return GpuBench.header(job.suite.name, TimingPlan()) | {
        "gpus": str(job.suite.gpus),
        _NVLS: os.environ[_NVLS],
        "time": "of the slowest rank; all_reduce averages in place",
        "energy": "measured_energy_j and power_w are the mean over the ranks' boards, boards_power_w each one's watts",
    }


def _report(job: _Job, outcome: session.Outcome) -> None:
    if job.check_only:
        print(f"{job.suite.name}: rows are checked, nothing is timed or recorded", file=sys.stderr)
    session.report(job.suite.name, outcome, job.out / f"{job.suite.name}.refused.txt", set())
    sys.stderr.flush()
