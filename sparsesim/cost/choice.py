"""A sparse FFN that may fall back to its dense products: `format: auto` takes the faster of the two, row by row.

    dense = gate and up in one product, relu(gate) * up, down

each priced by its own kernel class, so that the break-even density follows from measured products and passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsesim.work import Gemm, Op, Pointwise, SparseFfn

if TYPE_CHECKING:
    from sparsesim.cost.kernel import Cost

SUMMED = (
    "time_s",
    "core_s",
    "throttled_s",
    "compute_j",
    "memory_j",
    "link_j",
    "static_j",
    "flop",
    "hbm_bytes",
    "link_bytes",
    "sram_bytes",
    "operand_bytes",
)


def dense_ops(op: SparseFfn) -> tuple[Op, ...]:
    """The kernels of the same FFN without sparsity."""
    tokens = np.broadcast_arrays(op.tokens, op.nnz)[0]  # shapes follow the op's, though nnz does not matter
    ops: tuple[Op, ...] = (
        Gemm(m=tokens, n=2.0 * op.d_ff, k=op.d_model, dtype=op.dtype),
        Pointwise(kind="relu_mul", tokens=tokens, width=op.d_ff, dtype=op.dtype),
        Gemm(m=tokens, n=op.d_model, k=op.d_ff, dtype=op.dtype),
    )
    return tuple(replace(one, graph=op.graph, regime=op.regime) for one in ops)


def summed(costs: Sequence[Cost]) -> Cost:
    """Kernels one after the other: bound by the longest of them, trusted as the longest."""
    longest = max(costs, key=lambda cost: float(np.sum(cost.time_s)))
    values: dict[str, Any] = {name: sum(getattr(cost, name) for cost in costs) for name in SUMMED}
    return replace(longest, **values)


def fastest(sparse: Cost, op: SparseFfn, price: Callable[[Op], Cost]) -> dict[str, Cost]:
    """The sparse kernel and the dense fall-back by name, for `where` to choose from."""
    return {"sparse": sparse, "dense": summed([price(part) for part in dense_ops(op)])}
