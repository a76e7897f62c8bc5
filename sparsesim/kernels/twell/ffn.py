"""One entry for the whole family: the same FFN by any path, equal to the dense one on every input.

| path | gate | format | up and down |
| --- | --- | --- | --- |
| ``dense`` | cuBLAS | none | dense products |
| ``twell`` | GEMM that packs in its epilogue | TwELL | gather |
| ``gate_compact`` | cuBLAS | compacted by the consumer | gather |
| ``gate_pack`` | cuBLAS, then a pack kernel | TwELL | gather |
| ``ell`` | cuBLAS, then a conversion | ELL rows | gather |
| ``csr`` | cuBLAS, then a conversion | CSR | gather |
| ``hot_cold`` | as ``twell``, but the hottest neurons dense | TwELL | gather, added to the dense part |
| ``decode`` | tensor-core GEMV, 1 to 64 tokens | none | masked rows |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from sparsesim.kernels.common.requirements import KernelRequirementError
from sparsesim.kernels.twell import convert
from sparsesim.kernels.twell.dense import dense_eager, dense_fused
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.gate import decode_ffn, pack_gate
from sparsesim.kernels.twell.gather import Worklist, up_down
from sparsesim.kernels.twell.launch import DecodeLaunch, GateLaunch, GatherLaunch
from sparsesim.kernels.twell.overflow import dense_rows
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights, SplitWeights

Path = Literal["dense", "twell", "hot_cold", "gate_compact", "gate_pack", "ell", "csr", "decode"]
PATHS: tuple[Path, ...] = get_args(Path)
Weights = FfnWeights | FusedWeights | SplitWeights


@dataclass(frozen=True)
class FfnSettings:
    """Format and launch settings; ``capacity`` is the number of entries a row may hold before it goes
    dense.
    """

    form: TwellFormat = TwellFormat()
    capacity: int = 1024
    gate: GateLaunch = field(default_factory=GateLaunch)
    gather: GatherLaunch = field(default_factory=GatherLaunch)
    decode: DecodeLaunch = field(default_factory=DecodeLaunch)


def ffn(x: Any, weights: Weights, path: Path = "twell", settings: FfnSettings | None = None) -> Any:
    """``(relu(x Wg^T) * (x Wu^T)) Wd`` of ``x [M, d]`` by ``path``: ``[M, d]`` in the type of ``x``.

    ``weights``: ``SplitWeights`` for ``hot_cold``, ``FusedWeights`` or ``FfnWeights`` for ``dense`` (one gate+up
    product or two), ``FfnWeights`` for the others. No path synchronises with the host, so each can be captured in a
    CUDA graph on any stream. Raises ``KernelRequirementError`` for an unknown path, or weights, sizes and types
    that do not fit.
    """
    settings = settings or FfnSettings()
    if path not in PATHS:
        raise KernelRequirementError(f"twell: path is {path!r}, accepted are {', '.join(PATHS)}")
    if path == "dense" and not isinstance(weights, SplitWeights):
        return dense_fused(x, weights) if isinstance(weights, FusedWeights) else dense_eager(x, weights)
    if path == "hot_cold" and isinstance(weights, SplitWeights):
        out = dense_fused(x, weights.hot, out=torch.empty_like(x))
        return _sparse(x, weights.cold, "twell", settings, out)
    if not isinstance(weights, FfnWeights) or path == "hot_cold":
        raise KernelRequirementError(f"twell: path {path!r} does not take {type(weights).__name__}")
    if path == "decode":
        return decode_ffn(x, weights, settings.decode)
    return _sparse(x, weights, path, settings)


def _sparse(x: Any, weights: FfnWeights, path: Path, settings: FfnSettings, base: Any = None) -> Any:
    """A path through the gather, added to ``base`` where one is given."""
    add = base is not None
    work = Worklist.empty(x.shape[0], x.device)
    source = _source(x, weights, path, settings)
    out = up_down(x, source, weights, work, settings.form, settings.capacity, settings.gather, base, accumulate=add)
    if path != "csr":
        dense_rows(x, weights, work, out, accumulate=add)
    return out


def _source(x: Any, weights: FfnWeights, path: Path, settings: FfnSettings) -> Any:
    """What the gather reads its entries from."""
    if path == "twell":
        return pack_gate(x, weights, settings.form, settings.gate)
    gated = torch.matmul(x, weights.gate.T)
    if path == "gate_pack":
        return convert.to_words(gated, settings.form)
    if path == "ell":
        return convert.to_rows(gated, settings.capacity)
    if path == "csr":
        return convert.to_csr(gated, gated.numel())
    return gated
