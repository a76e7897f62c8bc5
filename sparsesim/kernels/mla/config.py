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


FEW_HEADS = MlaTile(block_h=16, block_t=64, num_warps=4, num_stages=2, swap=True)
MANY_HEADS = MlaTile(block_h=64, block_t=64, num_warps=8, num_stages=1, swap=False)
