"""Kernel time forms: equations with a few physical parameters, fitted once per kernel class.

Rates are shares of the chip's datasheet figures wherever the hardware sets them, so that a fit on one chip says
something about another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Array, Op

OpT = TypeVar("OpT", bound=Op)
Parameters = Mapping[str, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number of a form: its bounds, and the start that serves until data replace it."""

    name: str
    unit: str
    low: float
    high: float
    start: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of an op and what they are made of.

    `compute_s` is the part that stretches when clocks drop; `compute_term_s`, `memory_term_s`, `link_term_s` and
    `fixed_s` are the terms that compete for what bounds the op. `flop_executed` counts padding. `sram_bytes` pass
    through the multiprocessors outside of dense products: activations, caches, gathered rows, operands of grouped
    products; `operand_bytes` into a dense product: its weights, once, in the type that is multiplied.
    `product` are the seconds and FLOP of a matrix product that runs before the rest of the op as a kernel of its own.
    """

    time_s: Array
    compute_s: Array
    compute_term_s: Array
    memory_term_s: Array
    link_term_s: Array
    fixed_s: Array
    flop_executed: Array
    hbm_bytes: Array
    link_bytes: Array
    sram_bytes: Array = 0.0
    product: tuple[Array, Array] | None = None
    operand_bytes: Array = 0.0


class Form(ABC, Generic[OpT]):
    """How one op class becomes seconds."""

    op: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]

    def kernel_class(self, op: OpT) -> str | npt.NDArray[np.str_]:
        """Name of the constant set that applies, one per kernel and dtype; an array where rows differ."""
        return self.op

    @abstractmethod
    def timing(self, op: OpT, p: Parameters, chip: Chip) -> Timing:
        """Seconds and their parts; array fields of the op broadcast."""

    def coordinates(self, op: OpT) -> Floats:
        """log2 of the sizes that place an op among measured ones, [rows, sizes]."""
        values = [getattr(op, field.name) for field in fields(op)]
        sizes = [v for v in values if isinstance(v, int | float | np.ndarray) and not isinstance(v, bool)]
        rows = np.broadcast_arrays(*(np.asarray(size, float) for size in sizes))
        return np.stack([np.log2(np.clip(r.ravel(), 0.01, 1e9)) for r in rows], axis=1)


def pnorm(p: float, *terms: Array) -> Floats:
    """(sum x^p)^(1/p), scaled against overflow: a maximum with a soft knee."""
    arrays = np.broadcast_arrays(*(np.asarray(t, float) for t in terms))
    top = np.maximum.reduce(arrays)
    safe = np.where(top > 0, top, 1.0)
    total = np.add.reduce([(a / safe) ** p for a in arrays])
    return np.asarray(top * total ** (1.0 / p))


def share(p: float, term: Array, *others: Array) -> Floats:
    """Elasticity of `pnorm` to its first term: how much of the time scales with it."""
    total = pnorm(p, term, *others)
    return np.asarray(np.where(total > 0, (np.asarray(term) / np.where(total > 0, total, 1.0)) ** p, 0.0))


def one_or_each(names: npt.NDArray[np.str_]) -> str | npt.NDArray[np.str_]:
    """One name where all rows have the same, else each row's."""
    flat = np.unique(names)
    return str(flat[0]) if len(flat) == 1 else names


def bytes_per_s(chip: Chip, fraction: float) -> float:
    """Achieved memory bandwidth."""
    return fraction * chip.bandwidth_bytes_per_s
