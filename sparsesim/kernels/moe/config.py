"""Launch settings of the mixture-of-experts kernels, each with the measured reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupedTile:
    """One program's share of a grouped GEMM.

    block_m: token rows; block_n: output columns (of gate and of up each when gated); block_k: depth of one
    pipeline stage; swap: weights are the tensor core's left operand; group_m: row tiles walked before the next
    column tile; persistent: `programs` programs walk all tiles, else one program per tile.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    swap: bool = False
    group_m: int = 1
    persistent: bool = False
    programs: int = 132


@dataclass(frozen=True)
class RouterTile:
    """One program's share of the router.

    block_t tokens by block_e experts, block_k deep; splits: programs that share d_model; tail_t: tokens that
    one program routes, a multiple of block_t.
    """

    block_t: int
    block_e: int
    block_k: int
    splits: int
    tail_t: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        """Raise ValueError for a tail block that cuts through a token block."""
        if self.tail_t % self.block_t:
            raise ValueError(f"tail_t is {self.tail_t}, must be a multiple of block_t {self.block_t}")


@dataclass(frozen=True)
class LayerTiles:
    """Launch settings of all kernels of one layer; combine_block_d: output columns of one combine program."""

    router: RouterTile
    gate_up: GroupedTile
    down: GroupedTile
    combine_block_d: int


def layer_tiles(tokens: int, top_k: int, experts: int) -> LayerTiles:
    """Launch settings for a number of tokens, by rows per expert."""
    rows_per_expert = tokens * top_k / experts
    if tokens <= 64:
        router = RouterTile(16, 16, 256, 2 if tokens <= 16 else 1, 16 if tokens <= 16 else 64, 4, 3)
    else:
        router = RouterTile(64, 128, 64, 1, 64, 4, 3)
    if rows_per_expert <= 16:
        gate_up = GroupedTile(16, 64, 128, 4, 4, swap=True)
        down = GroupedTile(16, 128, 128, 4, 4, swap=True)
    elif rows_per_expert <= 48:
        gate_up = GroupedTile(32, 64, 128, 4, 4, swap=True)
        down = GroupedTile(32, 128, 128, 4, 4, swap=True)
    else:
        gate_up = GroupedTile(128, 128, 64, 8, 3, group_m=8)
        down = GroupedTile(128, 256, 64, 8, 3, group_m=8)
    return LayerTiles(router, gate_up, down, 1024)
