# mypy: disable-error-code="no-untyped-def"
"""Rows gathered into the order of their experts: what an expert-parallel dispatch sends.

Experts lie on ranks in order, so rows sorted by expert are also sorted by destination rank. One program copies a piece
of one row; bytes are read and written once: 2 rows d_model bytes-per-element in all, no FLOP.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def permute_kernel(x_ptr, row_token_ptr, out_ptr, d_model, BLOCK_D: tl.constexpr):
    """out[row] = x[row_token[row]]; grid (rows, pieces of BLOCK_D columns)."""
    row = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    token = tl.load(row_token_ptr + row)
    values = tl.load(x_ptr + token.to(tl.int64) * d_model + d, mask=d < d_model)
    tl.store(out_ptr + row.to(tl.int64) * d_model + d, values, mask=d < d_model)


def permute(x: torch.Tensor, row_token: torch.Tensor, out: torch.Tensor, block_d: int = 1024) -> torch.Tensor:
    """Rows of x `[tokens, d_model]` by row_token `[rows]` int32 into out `[rows, d_model]`.

    Raises ValueError for shapes that do not fit.
    """
    rows, d_model = row_token.shape[0], x.shape[1]
    if tuple(out.shape) != (rows, d_model):
        raise ValueError(f"out is {tuple(out.shape)}; expected {(rows, d_model)}")
    if rows:
        permute_kernel[(rows, triton.cdiv(d_model, block_d))](x, row_token, out, d_model, BLOCK_D=block_d, num_warps=4)
    return out
