"""Launch settings of the threshold kernels, each with the measured reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GemvTile:
    """One program's share of the sparse GEMV.

    block_n output columns; step rows of the weight looked at together; splits: programs that share the rows.
    """

    block_n: int
    step: int
    splits: int
    num_warps: int


@dataclass(frozen=True)
class ThresholdTile:
    """block_d: values that one program thresholds."""

    block_d: int
    num_warps: int


THRESHOLD_TILE = ThresholdTile(block_d=1024, num_warps=4)
SKIP_TILE = GemvTile(block_n=256, step=16, splits=16, num_warps=4)
GATHER_TILE = GemvTile(block_n=256, step=16, splits=16, num_warps=4)
