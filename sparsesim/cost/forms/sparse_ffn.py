"""Activation-sparse gated ReLU FFN: a dense gate product with packing, then gathered rows of up and down.

    gate   = pnorm(p; 2 T d F / (peak P), bytes / B);   pack = T F 2 bytes * passes / B
    gather = pnorm(2; nnz t_entry, T (t_token + nnz 2 d b / B_row))
    t = t0 + gate + pack + (1 - o) gather + o T 6 d F / (spilled P)

B_row is the rate at which rows are gathered: the caches' rather than the memory's, and another for patterns whose
rows are reused (zipf) than for independent ones. A token's entries are gathered one after the other, t_entry each,
which is what counts for few tokens. o is the share of rows that overflow (a tile of 256 columns beyond its 31 slots,
or a row beyond 1024 entries; `laws.overflow_probability`) and are computed densely. `dense` is composed of its own
products and has no constants here.

Training: a non-zero moves two rows forward (up, down), three for the gradients of the activations and three for those
of the weights, eight in all; nothing but the forward's gate product is dense.

    t = t0 + 2 T d F / (peak P) + T (t_token + nnz * 8 d b / B_row)
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sparsesim import laws
from sparsesim.cost.forms.base import (
    Floats,
    Form,
    Parameter,
    Parameters,
    Timing,
    bytes_per_s,
    one_or_each,
    pnorm,
    share,
)
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import SparseFfn, SparseFfnTrain, dtype_bytes


class SparseFfnForm(Form[SparseFfn]):
    """Time of `SparseFfn` in a sparse format."""

    op: ClassVar[str] = "sparse_ffn"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 0.5e-6, 100e-6, 12e-6, "launches and drains"),
        Parameter("peak", "1", 0.2, 1.0, 0.65, "share of the datasheet's FLOP/s in the gate product"),
        Parameter("bandwidth", "1", 0.3, 1.0, 0.85, "share of the datasheet's bytes/s"),
        Parameter("p", "1", 1.0, 16.0, 4.0, "sharpness of the knee"),
        Parameter("passes", "1", 0.0, 40.0, 1.0, "passes over the gate's output for packing"),
        Parameter("t_token", "s", 1e-12, 1e-6, 2e-9, "a token's own cost"),
        Parameter("row", "1", 0.1, 20.0, 2.5, "gathered rows, in units of the datasheet's bytes/s"),
        Parameter("t_entry", "s", 1e-9, 5e-6, 0.4e-6, "an entry of a token, which waits for the one before"),
        Parameter("spilled", "1", 0.02, 1.0, 0.3, "share of the datasheet's FLOP/s in overflowing rows"),
    )

    def kernel_class(self, op: SparseFfn) -> str | npt.NDArray[np.str_]:
        """One set per format and pattern; formats with kernels for decode have another up to 64 tokens."""
        if op.format not in DECODED:
            return f"sparse_ffn.{op.format}.{op.pattern}"
        phase = np.where(np.asarray(op.tokens) <= DECODE_TOK, "decode", "prefill")
        return one_or_each(np.char.add(f"sparse_ffn.{op.format}.{op.pattern}.", phase))

    def timing(self, op: SparseFfn, p: Parameters, chip: Chip) -> Timing:
        """Gate, packing and gathered rows."""
        tokens, neurons = np.asarray(op.tokens, float), np.asarray(op.d_ff, float)
        size = dtype_bytes(op.dtype)
        flop = 2.0 * tokens * op.d_model * neurons
        gate_bytes = size * (op.d_model * neurons + tokens * op.d_model)
        compute = flop / (p["peak"] * chip.peak(op.dtype))
        memory = gate_bytes / bytes_per_s(chip, p["bandwidth"])
        gate = pnorm(p["p"], compute, memory)
        packed = tokens * neurons * size * p["passes"] / bytes_per_s(chip, p["bandwidth"])
        rows_bytes = op.nnz * 2.0 * op.d_model * size
        streamed = tokens * (p["t_token"] + rows_bytes / bytes_per_s(chip, p["row"]))
        over = overflow_share(op)
        gathered = (1.0 - over) * pnorm(CHAIN_KNEE, op.nnz * p["t_entry"], streamed)
        dense_flop = over * 6.0 * tokens * op.d_model * neurons
        spilled = dense_flop / (p["spilled"] * chip.peak(op.dtype))
        fixed = p["t0"] + np.zeros_like(gate)
        executed = flop + (1.0 - over) * 4.0 * tokens * op.d_model * op.nnz + dense_flop
        hbm = np.asarray(op.hbm_bytes(), float) + tokens * neurons * size * p["passes"]
        return Timing(
            fixed + gate + packed + gathered + spilled,
            gate * share(p["p"], compute, memory) + gathered + spilled,
            compute + spilled,
            memory + packed + gathered,
            0.0,
            fixed,
            executed,
            hbm,
            0.0,
            tokens * ((1.0 - over) * rows_bytes + neurons * size * p["passes"]),
            (gate, flop),
        )


def overflow_share(op: SparseFfn) -> Floats:
    """Share of rows that no sparse row can hold, by the op's pattern and format."""
    each = np.vectorize(lambda nnz, neurons: _overflow(op.pattern, op.format, float(nnz), round(float(neurons))))
    return np.asarray(each(op.nnz, op.d_ff), float)


@functools.lru_cache(maxsize=4096)
def _overflow(pattern: str, form: str, nnz: float, neurons: int) -> float:
    if form == "csr" or nnz <= 0.0:
        return 0.0
    try:
        frequency = (laws.zipf_frequencies if pattern == "zipf" else laws.uniform_frequencies)(neurons, nnz)
    except ValueError:
        return 1.0  # more than the pattern's living neurons carry
    spread = float(np.sqrt(np.sum(frequency * (1.0 - frequency))))
    row = 1.0 - NormalDist(nnz, max(spread, 1e-9)).cdf(ROW_SLOTS)
    if form != "twell":
        return row
    law = laws.ActivationLaw(laws.shuffled(frequency, 0))
    return 1.0 - (1.0 - row) * (1.0 - laws.overflow_probability(law, TILE, TILE_SLOTS))


class SparseFfnTrainForm(Form[SparseFfnTrain]):
    """Time of `SparseFfnTrain`."""

    op: ClassVar[str] = "sparse_ffn_train"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 1e-6, 1e-3, 100e-6, "launches and drains"),
        Parameter("peak", "1", 0.2, 1.0, 0.65, "share of the datasheet's FLOP/s in the gate product"),
        Parameter("t_token", "s", 1e-12, 1e-6, 50e-9, "a token's own cost: packing, transposing"),
        Parameter("row", "1", 0.1, 20.0, 2.5, "moved rows, in units of the datasheet's bytes/s"),
    )

    def kernel_class(self, op: SparseFfnTrain) -> str:
        """One set per pattern."""
        return f"sparse_ffn_train.{op.pattern}"

    def timing(self, op: SparseFfnTrain, p: Parameters, chip: Chip) -> Timing:
        """The gate product, then rows."""
        tokens, size = np.asarray(op.tokens, float), dtype_bytes(op.dtype)
        dense = 2.0 * tokens * op.d_model * op.d_ff
        gate = dense / (p["peak"] * chip.peak(op.dtype))
        moved = tokens * op.nnz * MOVED_ROWS * op.d_model * size
        rows = tokens * p["t_token"] + moved / bytes_per_s(chip, p["row"])
        executed = dense + 16.0 * tokens * op.d_model * op.nnz
        hbm, fixed = np.asarray(op.hbm_bytes(), float), p["t0"] + np.zeros_like(gate)
        return Timing(
            fixed + gate + rows, gate + rows, gate, rows, 0.0, fixed, executed, hbm, 0.0, moved, (gate, dense)
        )


MOVED_ROWS = 8.0
"""Rows of d_model elements that a non-zero moves, forward and backward."""
CHAIN_KNEE = 2.0
"""Sharpness between a token's own chain of entries and what all tokens stream together."""
TILE, TILE_SLOTS, ROW_SLOTS = 256, 31, 1024
"""Columns and slots of a TwELL tile, and entries of a compacted row (kernels/twell, `FfnSettings`)."""
DECODED = ("auto", "twell", "dense")
"""Formats served by kernels of their own at few tokens; the others convert the dense gate at any number."""
DECODE_TOK = 64
"""Tokens up to which the decode kernels serve (kernels/twell)."""
