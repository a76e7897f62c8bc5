"""Launch settings of the mixture-of-experts kernels, each with the measured reason."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupedTile:
    """One program's share of a grouped GEMM.

    block_m: token rows; block_n: output columns (of gate and of up each when gated); block_k: depth of one
    pipeline stage; swap: weights are the tensor core's left operand; group_m: row tiles walked before the next
    column tile; persistent: `programs` programs walk all tiles, else one program per tile. In an overlapped
    launch the first `prefetch_programs` programs ask for `prefetch_bytes` of each weight row while they wait.
    cluster: plain products of bf16 go to the CUDA C++ kernel instead where it can be built (`hopper.py`).
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
    prefetch_bytes: int = 0
    prefetch_programs: int = 132
    cluster: bool = False


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


# Routers. Eight splits of d_model shorten one program's chain of loads, tail blocks of 16 tokens the top-k:
# 8.7 us at 1 token, 9.6 at 16, 12.9 at 64 (Qwen3-30B-A3B, H100), against 15.7 with one split and 14.4 with four.
ROUTER_FEW = RouterTile(block_t=16, block_e=16, block_k=128, splits=8, tail_t=16, num_warps=4, num_stages=3)
# 13.8 us at 256 tokens and 17.7 at 512, against 16.5 and 20.3 with 16 experts, 256 deep and no split.
ROUTER_SOME = RouterTile(block_t=16, block_e=32, block_k=128, splits=2, tail_t=16, num_warps=4, num_stages=3)
# 35.2 us at 4096 tokens; tail blocks of 16 tokens 45 us and more, for their many loads in the scatter.
ROUTER_MANY = RouterTile(block_t=32, block_e=128, block_k=64, splits=1, tail_t=32, num_warps=8, num_stages=3)
# 56.7 us at 8192 tokens against 82.8 with 32 tokens.
ROUTER_MOST = RouterTile(block_t=64, block_e=128, block_k=64, splits=1, tail_t=64, num_warps=8, num_stages=3)


def router_tile(tokens: int) -> RouterTile:
    """Router settings for a number of tokens."""
    if tokens <= 64:
        return ROUTER_FEW
    if tokens <= 512:
        return ROUTER_SOME
    return ROUTER_MANY if tokens <= 4096 else ROUTER_MOST


def grouped_tile(rows: int, experts: int, k: int) -> GroupedTile:
    """Settings of a plain grouped GEMM of `rows` sorted rows, k deep, by mean rows per expert.

    Measured on an H100 with Qwen3-30B-A3B's and Mixtral-8x7B's experts, 1 to 8192 tokens (best of 8 to 15
    settings each): few rows stream weights at 2.9 to 3.1 TB/s with any deep enough pipeline; from about 100 rows
    an expert 128 x 256 tiles reach 680 to 720 TFLOP/s. A persistent walk hides the epilogue of short products
    (k 768, 64 rows: 162 us against 175), and costs long ones 1 %. At 16 rows an expert and k 4096, 64 rows and 128
    columns cost an even load 1 % and take a skewed one (a hot expert of 45 rows) from 667 to 630 us. From 32 rows an
    expert on the cluster kernel was the faster one in 45 of 48 pairs (3 % slower at worst), by 7 % in the geometric
    mean; below, it is up to 10 % slower. The Triton settings that stand in for it: at 256 rows an expert 16 row tiles
    of one column tile together take a deep product from 568 to 556 us (k 14336; other tiles 563 to 654).
    """
    rows_per_expert = rows / experts
    if rows_per_expert < 8:
        return GroupedTile(16, 64, 128, 4, 4, swap=True)
    short = k <= 2048
    if rows_per_expert < 32:
        return GroupedTile(32, 64, 128, 4, 4, swap=True) if short else GroupedTile(64, 128, 128, 4, 3, group_m=4)
    if rows_per_expert < 96:
        return GroupedTile(128, 128, 64, 8, 4, group_m=4, persistent=short, cluster=True)
    if short:
        return GroupedTile(128, 256, 64, 8, 3, group_m=4, persistent=True, cluster=True)
    return GroupedTile(128, 256, 64, 8, 4, group_m=16 if rows_per_expert < 512 else 8, cluster=True)


def layer_tiles(tokens: int, top_k: int, experts: int, d_expert: int) -> LayerTiles:
    """Launch settings for a number of tokens, by mean rows per expert.

    Measured with Qwen3-30B-A3B's experts on an H100. Asking early for 2560 bytes of each row takes 64 tokens from
    406.4 to 403.4 us and 256 from 437.7 to 433.3; where fewer than two thirds of the experts are hit the guess is
    wrong too often, and asking early for the down projection costs 1 token 2 to 4 us and gains the others nothing.
    Gate and up at 512 tokens: 64 rows 287 us, 128 rows 300; at 1024 tokens 326 and 309.
    """
    rows_per_expert = tokens * top_k / experts
    guess_bytes = 2560 if rows_per_expert >= 1.0 else 0
    if rows_per_expert < 16:
        gate_up = GroupedTile(16, 64, 128, 4, 4, swap=True, prefetch_bytes=guess_bytes)
        down = GroupedTile(16, 64, 128, 4, 3, swap=True)
    elif rows_per_expert < 32:
        gate_up = GroupedTile(32, 64, 128, 4, 3, swap=True, prefetch_bytes=guess_bytes)
        down = GroupedTile(32, 64, 128, 4, 3, swap=True)
    elif rows_per_expert < 48:
        gate_up = GroupedTile(64, 64, 128, 4, 3, group_m=2)
        down = GroupedTile(64, 128, 64, 4, 4, group_m=4)
    else:
        gate_up = GroupedTile(128, 128, 64, 8, 4, group_m=8)
        down = grouped_tile(tokens * top_k, experts, d_expert)
    return LayerTiles(router_tile(tokens), gate_up, down, combine_block_d=1024 if tokens > 64 else 256)
