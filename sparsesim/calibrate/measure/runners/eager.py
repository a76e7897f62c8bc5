"""Passes of an eager framework: PyTorch's own kernels on the layouts that plain modules give them.

Rotary kinds take heads as a projection's transposed view, [batch, heads, tokens, head_dim] in memory
[batch, tokens, heads, head_dim]; a concatenation leaves them in the order of their dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.work import Pointwise

HEAD_DIM = 64
SEQUENCE = 2048
"""Tokens of a sequence where they divide into whole ones; else all are one sequence."""
_CHECKED = 4096

Inputs = tuple[Any, ...]
Make = Callable[[Pointwise, Bench], Inputs]
Call = Callable[..., Any]


def candidates(op: Pointwise, bench: Bench) -> Sequence[Candidate]:
    """PyTorch's kernel for the pass of the op's kind."""
    make, call, dtype = EAGER[op.kind]
    if op.dtype != dtype:
        raise UnsupportedError(f"pointwise {op.kind}: dtype {op.dtype!r}; measured is {dtype}")
    sets = [make(op, bench) for _ in range(bench.sets(float(op.hbm_bytes())))]

    def check(out: Any) -> tuple[Any, Any]:
        exact = call(*(t.float() for t in sets[0])).reshape(-1)
        some = torch.tensor(spread_indices(exact.numel(), _CHECKED), device=exact.device)
        return out.reshape(-1)[some], exact[some]

    return [Candidate("torch", [partial(call, *s) for s in sets], check)]


def _matrix(*dtypes: str) -> Make:
    """Matrices [tokens, width]."""

    def make(op: Pointwise, bench: Bench) -> Inputs:
        return tuple(bench.inputs.take(int(op.tokens), int(op.width), dtype=dtype) for dtype in dtypes)

    return make


def _by_row(op: Pointwise, bench: Bench) -> Inputs:
    """An fp32 matrix and one factor a row."""
    return (*_matrix("fp32")(op, bench), bench.inputs.take(int(op.tokens), 1, dtype="fp32"))


def _by_column(op: Pointwise, bench: Bench) -> Inputs:
    """One factor a column and a matrix."""
    return (bench.inputs.take(int(op.width)), *_matrix("bf16")(op, bench))


def _row_value(op: Pointwise, bench: Bench) -> Inputs:
    """One fp32 value a row, seen as a whole row."""
    return (bench.inputs.take(int(op.tokens), 1, dtype="fp32").expand(-1, int(op.width)),)


def _heads(op: Pointwise, bench: Bench, head_dim: int = HEAD_DIM) -> Any:
    tokens, width = int(op.tokens), int(op.width)
    if width % head_dim:
        raise UnsupportedError(f"pointwise {op.kind}: width {width} is not a multiple of {head_dim}")
    sequences = tokens // SEQUENCE if tokens % SEQUENCE == 0 else 1
    return bench.inputs.take(sequences, tokens // sequences, width // head_dim, head_dim).transpose(1, 2)


def _turned(op: Pointwise, bench: Bench) -> Inputs:
    """Heads, and a cosine for each token and place."""
    heads = _heads(op, bench)
    return heads, bench.inputs.take(heads.shape[0], 1, heads.shape[2], HEAD_DIM)


def _half(op: Pointwise, bench: Bench) -> Inputs:
    """The second half of each of twice as wide heads."""
    whole = _heads(op, bench, HEAD_DIM // 2)
    shape = (whole.shape[0], whole.shape[2], whole.shape[1], HEAD_DIM)
    return (bench.inputs.take(*shape).transpose(1, 2)[..., HEAD_DIM // 2 :],)


def _halves(op: Pointwise, bench: Bench) -> Inputs:
    """A negated half by itself, and the other as a view of its head."""
    whole = _heads(op, bench)
    return torch.empty_like(whole[..., HEAD_DIM // 2 :]).copy_(whole[..., HEAD_DIM // 2 :]), whole[..., : HEAD_DIM // 2]


def _layouts(op: Pointwise, bench: Bench) -> Inputs:
    """Heads as a projection leaves them, and as a concatenation does."""
    heads = _heads(op, bench)
    return heads, bench.inputs.take(*heads.shape)


EAGER: dict[str, tuple[Make, Call, str]] = {
    "widen": (_matrix("bf16"), lambda x: x.to(torch.float32), "bf16"),
    "narrow": (_matrix("fp32"), lambda x: x.to(torch.bfloat16), "bf16"),
    "square": (_matrix("fp32"), lambda x: x.pow(2), "fp32"),
    "mean": (_matrix("fp32"), lambda x: x.mean(-1, keepdim=True), "fp32"),
    "scale": (_by_row, lambda x, factor: x * factor, "fp32"),
    "weight": (_by_column, lambda factor, x: factor * x, "bf16"),
    "expand": (_row_value, lambda value: value / value.shape[1], "fp32"),
    "column_sum": (_matrix("bf16"), lambda x: x.sum(0), "bf16"),
    "sum": (_matrix("bf16", "bf16"), lambda x, y: x + y, "bf16"),
    "function": (_matrix("bf16"), torch.relu, "bf16"),
    "product": (_matrix("bf16", "bf16"), lambda x, y: x * y, "bf16"),
    "rotate": (_turned, lambda x, cosine: x * cosine, "bf16"),
    "negate": (_half, lambda x: -x, "bf16"),
    "concatenate": (_halves, lambda x, y: torch.cat((x, y), -1), "bf16"),
    "rotated_sum": (_layouts, lambda x, y: x + y, "bf16"),
    "transpose": (lambda op, bench: (_heads(op, bench),), lambda x: x.contiguous(), "bf16"),
}
"""How each kind of `sparsesim.work.memory.EAGER_PASSES` is measured: its inputs, the call, the dtype of its row."""
