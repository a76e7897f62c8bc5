"""One entry for the whole family: the same FFN by any path, equal to the dense one on every input.

| path | gate | format | up and down |
| --- | --- | --- | --- |
| ``dense`` | cuBLAS | none | dense products |
| ``twell`` | GEMM that packs in its epilogue | TwELL | gather |
| ``gate_compact`` | cuBLAS | compacted by the consumer | gather |
| ``gate_pack`` | cuBLAS, then a pack kernel | TwELL | gather |
| ``ell`` | cuBLAS, then a conversion | ELL rows | gather |
| ``csr`` | cuBLAS, then a conversion | CSR | gather |
| ``hot_cold`` | as ``twell``, but the first ``hot`` neurons dense | TwELL | gather, added to the dense part |
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
from sparsesim.kernels.twell.packed import Packed
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights

Path = Literal["dense", "twell", "hot_cold", "gate_compact", "gate_pack", "ell", "csr", "decode"]
PATHS: tuple[Path, ...] = get_args(Path)
Weights = FfnWeights | FusedWeights


@dataclass(frozen=True)
class FfnSettings:
    """Format and launch settings.

    ``capacity``: entries a row may hold before it goes dense. ``hot``: neurons that ``hot_cold`` keeps dense, the first
    ones of the weights (``FfnWeights.by_frequency``).
    """

    form: TwellFormat = TwellFormat()
    capacity: int = 1024
    hot: int = 256
    gate: GateLaunch = field(default_factory=GateLaunch)
    gather: GatherLaunch = field(default_factory=GatherLaunch)
    decode: DecodeLaunch = field(default_factory=DecodeLaunch)


def ffn(x: Any, weights: Weights, path: Path = "twell", settings: FfnSettings | None = None) -> Any:
    """``(relu(x Wg^T) * (x Wu^T)) Wd`` of ``x [M, d]`` by ``path``: ``[M, d]`` in the type of ``x``.

    ``weights``: ``FusedWeights`` (one gate+up product) or ``FfnWeights`` (two) for ``dense``, ``FfnWeights`` for the
    others; ``hot_cold`` is right for any order of the neurons and fast with the most frequent first. No path
    synchronises with the host, so each can be captured in a CUDA graph on any stream. Raises
    ``KernelRequirementError`` for an unknown path, or weights, sizes and types that do not fit.
    """
    settings = settings or FfnSettings()
    if path not in PATHS:
        raise KernelRequirementError(f"twell: path is {path!r}, accepted are {', '.join(PATHS)}")
    if path == "dense":
        return dense_fused(x, weights) if isinstance(weights, FusedWeights) else dense_eager(x, weights)
    if not isinstance(weights, FfnWeights):
        raise KernelRequirementError(f"twell: path {path!r} does not take {type(weights).__name__}")
    if path == "decode":
        return decode_ffn(x, weights, settings.decode)
    return _sparse(x, weights, path, settings)


def _sparse(x: Any, weights: FfnWeights, path: Path, settings: FfnSettings) -> Any:
    """A path through the gather, added to the dense part of the hot neurons where there are any."""
    work = Worklist.empty(x.shape[0], x.device)
    source, out = _source(x, weights, path, settings), None
    if isinstance(source, Packed) and source.hot:
        out = source.hidden @ weights.down[: source.hot]
    launch = (settings.form, settings.capacity, settings.gather)
    out = up_down(x, source, weights, work, *launch, out, accumulate=out is not None)
    if path != "csr":
        hot = source.hot if isinstance(source, Packed) else 0
        dense_rows(x, weights, work, out, hot)
    return out


def _source(x: Any, weights: FfnWeights, path: Path, settings: FfnSettings) -> Any:
    """What the gather reads its entries from."""
    if path in ("twell", "hot_cold"):
        return pack_gate(x, weights, settings.form, settings.gate, settings.hot if path == "hot_cold" else 0)
    gated = torch.matmul(x, weights.gate.T)
    if path == "gate_pack":
        return Packed(convert.to_words(gated, settings.form))
    if path == "ell":
        return convert.to_rows(gated, settings.capacity)
    if path == "csr":
        return convert.to_csr(gated, gated.numel())
    return gated
