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


# Measured on an H100, batch 64, 80 heads, state 64 x 128 in fp32: 115.8 us, 2.91 TB/s, against 117.2 with 4
# warps and 118.8 with 32 rows; in bf16 59.8 us, 2.83 TB/s. The whole state of a head, so B and C are read once.
DECODE_TILE = DecodeTile(block_p=64, num_warps=8)

# Measured on an H100 at 8 x 8192 tokens of Mamba-2 2.7B: 1095 us, against 1185 with two stages, 1374 with 32
# tokens, and 1439 with 128 tokens and 8 warps (more masked scores per token, registers spilled).
SCAN_TILE = ScanTile(chunk=64, num_warps=4, num_stages=3)
