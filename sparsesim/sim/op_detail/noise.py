"""Slow ranks and jitter; slow and lost links are made on the `Network`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem
from sparsesim.sim.op_detail.program import Exchange, Local, Program

Floats = NDArray[np.float64]


def with_slow_rank(steps: Program, rank: int, factor: float, ranks: int) -> Program:
    """Every local op of one rank takes `factor` times as long, `factor >= 1`."""
    if not 0 <= rank < ranks or factor < 1.0:
        raise InputError(Problem(f"slow rank {rank} by {factor}: rank must be below {ranks}, factor at least 1"))
    stretch = np.ones(ranks)
    stretch[rank] = factor
    return _stretched(steps, ranks, lambda: stretch)


def with_jitter(steps: Program, sigma: float, ranks: int, seed: int) -> Program:
    """Every local op of every rank is stretched by its own log-normal factor of mean 1."""
    if sigma < 0.0:
        raise InputError(Problem(f"jitter {sigma} is negative"))
    rng = np.random.default_rng(seed)
    return _stretched(steps, ranks, lambda: rng.lognormal(-(sigma**2) / 2.0, sigma, ranks))


def _stretched(steps: Program, ranks: int, draw: Callable[[], Floats]) -> Program:
    def slower(step: Local) -> Local:
        return replace(step, time_s=step.seconds(ranks) * draw())

    return tuple(
        replace(step, behind=tuple(slower(inner) for inner in step.behind))
        if isinstance(step, Exchange)
        else slower(step)
        for step in steps
    )
