"""Launch settings of the TwELL kernels, with the reason for each value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GateLaunch:
    """Tile of the pack GEMM; the tile's columns are the format's tile.

    128 x 256 x 64 gives each of two warp groups a 64 x 256 accumulator, the largest wgmma shape; three
    stages of 48 KB fill an SM's shared memory.
    """

    block_m: int = 128
    block_k: int = 64
    group_m: int = 8
    warps: int = 8
    stages: int = 3


@dataclass(frozen=True)
class GatherLaunch:
    """Up+down gather: ``step`` entries of a token are loaded together by ``warps`` warps.

    On an H100 at M 16384, nnz 29 (us, independent / Zipf without the 256 hottest): 1 entry and 4 warps 549 / 255, 2 and
    4 546 / 255, 4 and 4 573 / 259, 4 and 8 597 / 290, 8 and 8 666 / 370: flat, since L2 and not latency is the limit.
    Tokens and results marked to leave the L2 first: 542 / 250. Weight rows marked to stay: no effect. Overlapping the
    launch with the pack GEMM (programmatic dependent launch): no gain in the whole path.

    ``two_pass_from`` tokens on, up and down are two passes of ``two_pass_step`` entries at a time. Two against one, the
    gather alone, independent: 536 against 551 us at 16384 tokens, 2065 against 2163 at 65536, 151 against 149 at 4096.
    With the 256 hottest neurons apart fewer rows miss the L2: 264 against 256 us at 16384, and at 65536 the whole path
    3303 against 3335.
    """

    step: int = 2
    warps: int = 4
    stages: int = 2
    two_pass_step: int = 4
    two_pass_from: int = 8192
    two_pass_from_hot: int = 32768

    def two_passes(self, tokens: int, hot: int) -> bool:
        """Whether so many tokens take up and down in two passes, ``hot`` neurons being dense."""
        return tokens >= (self.two_pass_from_hot if hot else self.two_pass_from)


@dataclass(frozen=True)
class DecodeLaunch:
    """Decode: ``block_f`` neurons a program for gate and up, ``block_d`` columns and ``splits`` of F for
    down.
    """

    block_f: int = 16
    block_k: int = 256
    warps: int = 4
    stages: int = 4
    block_d: int = 64
    block_h: int = 64
    splits: int = 8
