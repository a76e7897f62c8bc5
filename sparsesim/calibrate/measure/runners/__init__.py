"""Runners by op: from a row to calls over rotated buffers, with the correctness check of each backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError
from sparsesim.calibrate.measure.runners import (
    attention,
    gemm,
    memory,
    mla,
    mla_prefill,
    moe,
    sparse_ffn,
    ssm,
    threshold,
)
from sparsesim.calibrate.measure.suite import Row

Runner = Callable[[Any, Bench], Sequence[Candidate]]

RUNNERS: dict[str, Runner] = {
    "gemm": gemm.candidates,
    "attention_prefill": attention.prefill,
    "attention_flash": attention.prefill_flash,
    "attention_backward": attention.backward,
    "attention_decode": attention.decode,
    "mla_prefill": mla_prefill.candidates,
    "mla_decode": mla.decode,
    "ssm_scan": ssm.scan,
    "ssm_step": ssm.step,
    "moe_ffn": moe.candidates,
    "sparse_ffn": sparse_ffn.candidates,
    "threshold_gemv": threshold.candidates,
    "pointwise": memory.pointwise,
    "copy": memory.copy,
}


def prepare(row: Row, bench: Bench) -> Sequence[Candidate]:
    """Backends for a row.

    Raises:
        UnsupportedError: naming the ops that can be measured.

    """
    runner = RUNNERS.get(row.op.op)
    if runner is None:
        raise UnsupportedError(f"no runner for op {row.op.op!r}; there are: {', '.join(RUNNERS)}")
    return runner(row.op, bench)
