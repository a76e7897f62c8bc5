"""Launch settings of MLA decode, each with the measured reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MlaTile:
    """One program's share: block_h query heads over block_t cached tokens at a time.

    swap: the cache is the tensor core's left operand (64 rows of tokens or latent columns), so that 16 heads
    still fill it; num_stages: token blocks in flight.
    """

    block_h: int
    block_t: int
    num_warps: int
    num_stages: int
    swap: bool

    def __post_init__(self) -> None:
        """Raise ValueError for one stage: Triton 3.6 then reads the cache at illegal addresses (seen on an H100)."""
        if self.num_stages < 2:
            raise ValueError(f"num_stages is {self.num_stages}, must be at least 2")


# Measured on an H100 at 64 x 8192 cached tokens (604 MB): 209.8 us, 2.88 TB/s; 64 tokens and 2 stages 213.2 us,
# the query as left operand (rows padded to 16) 211.3 us.
FEW_HEADS = MlaTile(block_h=16, block_t=32, num_warps=4, num_stages=4, swap=True)

# The largest tile whose two stages fit in shared memory: 521.6 us for 128 heads at 64 x 8192 (one split);
# 32 tokens and 3 stages 602.4 us. Used where the Hopper kernel (332.8 us) does not apply.
MANY_HEADS = MlaTile(block_h=64, block_t=64, num_warps=8, num_stages=2, swap=False)


@dataclass(frozen=True)
class SplitCosts:
    """What decides the number of splits: seconds per cached token of one program's work, seconds to start a wave of
    programs, and bytes per second of the cache and of partial outputs (written and read again).
    """

    token_s: float
    start_s: float
    cache_bytes_per_s: float
    partial_bytes_per_s: float


# From timings of one H100 (calibration/data/h100-sxm/mla.csv): one wave of 8192 tokens 333 us at 64 heads a program and
# 367 us at 16; every further split of 64 sequences with 128 heads 11 us for 34 MB of partial outputs, every further
# wave 4 us; the cache streams at 2.88 TB/s. The estimate is within 10 % of all 18 rows.
FEW_HEADS_COSTS = SplitCosts(44.8e-9, 4e-6, 2.88e12, 3.05e12)
MANY_HEADS_COSTS = SplitCosts(40.6e-9, 4e-6, 2.88e12, 3.05e12)
