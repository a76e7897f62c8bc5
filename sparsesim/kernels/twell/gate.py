"""The pack GEMM and the decode path in the fastest form that this machine and these types allow."""

from __future__ import annotations

from typing import Any

import torch

from sparsesim.kernels.common import native
from sparsesim.kernels.twell import decode, hopper, pack
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.launch import DecodeLaunch, GateLaunch
from sparsesim.kernels.twell.packed import Packed
from sparsesim.kernels.twell.weights import FfnWeights

HOPPER_DECODE_TOKENS = 4
"""Up to here the CUDA decode kernel was the faster one on an H100 (see the README's table)."""


def pack_gate(
    x: Any, weights: FfnWeights, form: TwellFormat, launch: GateLaunch, hot: int = 0, apart: bool = False
) -> Packed:
    """TwELL words of ``relu(x Wg^T)``, the first ``hot`` neurons dense (gate and up ``apart``, or their product).

    By wgmma for bf16 on Hopper with nvcc at hand, else by Triton and plain products.
    """
    if x.dtype == torch.bfloat16 and form.tile == hopper.TILE and native.hopper_missing() is None:
        return hopper.pack_gate(x, weights, form, None, hot, apart)
    words = pack.pack_gate(x, weights, form, launch, None, hot)
    if hot == 0:
        return Packed(words)
    gated, projected = torch.relu_(x @ weights.gate[:hot].T), x @ weights.up[:hot].T
    return Packed(words, gated, projected) if apart else Packed(words, gated.mul_(projected))


def decode_ffn(x: Any, weights: FfnWeights, launch: DecodeLaunch) -> Any:
    """The sparse FFN of 1 to 64 tokens: in CUDA C++ for the fewest tokens on Hopper, else by Triton."""
    fast = x.dtype == torch.bfloat16 and 0 < len(x) <= HOPPER_DECODE_TOKENS
    if fast and native.hopper_missing() is None:
        return hopper.decode_ffn(x, weights)
    return decode.decode_ffn(x, weights, launch)
