"""Launch settings of the SSM kernels, each with the measured reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeTile:
    """block_p: rows of one head's state per program (the whole d_state wide)."""

    block_p: int
    num_warps: int


@dataclass(frozen=True)
class ScanTile:
    """chunk: tokens per step of the scan; num_stages: chunks whose loads are in flight; decay_heads: heads of one
    program of the small kernel that prepares the decays.
    """

    chunk: int
    num_warps: int
    num_stages: int
    decay_heads: int = 16


DECODE_TILE = DecodeTile(block_p=64, num_warps=4)
SCAN_TILE = ScanTile(chunk=64, num_warps=4, num_stages=2)
