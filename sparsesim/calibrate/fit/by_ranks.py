"""What a few GPUs say of many: messages fitted on the fewest ranks that were measured, then on all, errors by ranks.

The forms alone, without corrections near the data. Published bandwidths of large messages are held beside the measured
rows; they are never fitted. Where one number of ranks was measured there is one fit, and the published rows are its
only test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.calibrate.fit.crossvalidate import split
from sparsesim.calibrate.fit.least_squares import log_ratio, prior_of, solve
from sparsesim.calibrate.fit.rows import Sample, by_class, measured
from sparsesim.cost.forms import Form
from sparsesim.cost.network.published import bus_rows
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Chip, Gpu
from sparsesim.work import AllGather, AllToAll, Collective, ReduceScatter

Floats = npt.NDArray[np.float64]
PUBLISHED = "non-allreduce collectives / ring"
PUBLISHED_RANKS, PUBLISHED_CHIP = 8, "h100-sxm"
PUBLISHED_BYTES = 4.0 * 2**30
"""Of the published row: GPUs, chip, and a buffer beyond which its bandwidth no longer grows."""
_PUBLISHED_OPS: tuple[type[Collective], ...] = (AllGather, ReduceScatter, AllToAll)
LEAST_ROWS = 6


def errors_by_ranks(folder: Path, gpu: Gpu) -> list[dict[str, Any]]:
    """Rows of errors in percent: class and ranks (`group`), quantity, what it was fitted on, n, mape, p90, bias.

    Raises:
        InputError: the folder holds no messages.

    """
    frame = measured(folder)
    classes, _ = by_class(frame)
    ranked = {name: samples for name, samples in classes.items() if _column(samples[0]) is not None}
    if not ranked:
        raise InputError(Problem("no table holds messages between ranks", place=str(folder)))
    return [row for name, samples in sorted(ranked.items()) for row in _of_class(name, samples, gpu)]


def ranks_of(samples: Sequence[Sample]) -> Floats:
    """Ranks of every row."""
    columns = [(sample, _column(sample)) for sample in samples]
    return np.concatenate([np.broadcast_to(getattr(s.op, str(c)), s.time_s.shape) for s, c in columns])


def _column(sample: Sample) -> str | None:
    names = ("gpus", "ranks") if sample.form.op != "send" else ()
    return next((name for name in names if hasattr(sample.op, name)), None)


def _of_class(name: str, samples: Sequence[Sample], gpu: Gpu) -> Iterator[dict[str, Any]]:
    ranks, chip = ranks_of(samples), gpu.chip()
    counts = np.unique(ranks)
    for most in dict.fromkeys((counts[0], counts[-1])):
        train = split(samples, ranks <= most)
        if sum(map(len, train)) < LEAST_ROWS:
            continue
        solution = solve(train, chip, prior_of(samples[0].form, None))
        fitted_on = ", ".join(f"{count:g}" for count in counts[counts <= most]) + " GPUs"
        for count in counts:
            error = np.expm1(log_ratio(split(samples, ranks == count), solution.parameters, chip))
            yield _row(f"{name}, {count:g} GPUs", "time", fitted_on, error)
        for ratio in _published(samples[0].form, name, solution.parameters, gpu.name, chip):
            yield _row(f"{name}, {PUBLISHED_RANKS} GPUs", "published bandwidth", fitted_on, np.array([ratio - 1.0]))


def _row(group: str, quantity: str, fitted_on: str, error: Floats) -> dict[str, Any]:
    return {
        "group": group,
        "quantity": quantity,
        "fitted_on": fitted_on,
        "n": len(error),
        "mape": 100 * float(np.mean(np.abs(error))),
        "p90": 100 * float(np.quantile(np.abs(error), 0.9)),
        "bias": 100 * float(np.mean(error)),
    }


def _published(form: Form[Any], name: str, parameters: dict[str, float], gpu: str, chip: Chip) -> list[float]:
    """Predicted over published bandwidth of a large message in a graph; none for what was not published."""
    kind = next((kind for kind in _PUBLISHED_OPS if f"{kind.op}.graph" == name), None)
    if kind is None or gpu != PUBLISHED_CHIP:
        return []
    op = kind(gpus=float(PUBLISHED_RANKS), bytes=PUBLISHED_BYTES)
    bytes_per_s = float(op.link_bytes()) / float(form.timing(op, parameters, chip).time_s)
    return [bytes_per_s / row.bytes_per_s for row in bus_rows() if row.op == PUBLISHED]
