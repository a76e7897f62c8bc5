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


# 5.3 us for three projections of 4096 values (H100), 5.4 to 5.5 with larger blocks: latency.
THRESHOLD_TILE = ThresholdTile(block_d=256, num_warps=4)

# H100, density 0.1: 9.0 us at 4096 x 14336 (8.0 with 1024 columns and 16 splits, which leaves 4096 columns too few
# programs: 12.9 us) and 8.6 us at 14336 x 4096. More rows per step than 8 wait for empty tails at low density.
GATHER_TILE = GemvTile(block_n=512, step=8, splits=32, num_warps=2)

# H100, density 0.1: 30.8 us at 4096 x 14336 and 26.1 at 14336 x 4096; 512 columns, 32 splits and 2 warps 24.9 and 40.6
# us; 4 warps 78 us and more: each warp waits for its own few rows, so many small programs wait least.
SKIP_TILE = GemvTile(block_n=256, step=8, splits=64, num_warps=1)
