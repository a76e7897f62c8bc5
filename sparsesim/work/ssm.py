"""State-space and linear-attention kernels: chunked scan for prefill, one-token update for decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsesim.work.base import Array, Op, column, dtype_bytes

ELEMENTWISE = ("mamba1", "mlgru")
"""Recurrences whose decay differs by element, so that no chunk of them is a matrix product."""
CHUNK_TOK = 64.0
"""Tokens a chunked scan handles as one block of matrix products (facts: chunks = ceil(S/64))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recurrence(Op):
    batch: Array = column("sequences")
    tokens: Array = column("new tokens per sequence", "tok", default=1.0)
    heads: Array = column("value heads on this device")
    head_dim: Array = column("width of a head's value")
    state: Array = column("state size: width of a head's key")
    groups: Array = column("groups that share B and C (keys and queries)", default=1.0)
    kind: str = column("mamba1, mamba2, gdn, kda, lightning or mlgru", default="mamba2")
    dtype: str = column("of inputs and outputs", default="bf16")
    state_dtype: str = column("of the recurrent state", default="fp32")

    def state_bytes(self) -> Array:
        """Bytes of one copy of the states of the batch."""
        return self.batch * self.heads * self.head_dim * self.state * dtype_bytes(self.state_dtype)

    def io_bytes(self) -> Array:
        """Bytes of inputs (value, decay, B, C) and output."""
        width = 2.0 * self.heads * self.head_dim + self.heads + 2.0 * self.groups * self.state
        return self.batch * self.tokens * width * dtype_bytes(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmScan(_Recurrence):
    """The scan over a prompt, states written once at its end."""

    op: ClassVar[str] = "ssm_scan"

    def flop(self) -> Array:
        """By chunks where the decay is one number a head, element by element where it is one an element.

        Chunks of c tokens: 2c(N + P) per token and head inside, 4 N P for the state's update and reading (N: state, P:
        head_dim; the SSD form of Mamba-2, arXiv 2405.21060 section 6). Elements (Mamba-1's selective scan, arXiv
        2312.00752 section 3.3): discretising, decay, input, sum and reading are 9 per element of the state.
        """
        if self.kind in ELEMENTWISE:
            return 9.0 * self.batch * self.tokens * self.heads * self.state * self.head_dim
        inside = 2.0 * CHUNK_TOK * (self.state + self.head_dim)
        through = 4.0 * self.state * self.head_dim
        return self.batch * self.tokens * self.heads * (inside + through)

    def hbm_bytes(self) -> Array:
        """Inputs and outputs once, the final state once."""
        return self.io_bytes() + self.state_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmStep(_Recurrence):
    """One token a sequence: the state is read, updated and written."""

    op: ClassVar[str] = "ssm_step"

    def flop(self) -> Array:
        """Decay, rank-one update and reading: 6 per state element."""
        return 6.0 * self.batch * self.tokens * self.heads * self.head_dim * self.state

    def hbm_bytes(self) -> Array:
        """State in and out, inputs and output."""
        return 2.0 * self.state_bytes() + self.io_bytes()
