"""Dense matrix products: a menu of tiles, waves over the SMs, split-K, and memory, the best of the menu.

    bytes = weights + inputs + outputs;   t_mem = (bytes + x_half) / B
    for each tile (Tm, Tn) and split s:
        w     = ceil(m/Tm) ceil(n/Tn) s / SM;   waves = beta ceil(w) + (1 - beta) max(w, 1)
        t_cfg = pnorm(p; waves * 2 Tm Tn SM/P * (K_s + k0), t_mem) + (s > 1) (t_r + 4 s m n / B_red)
    t = t_0 + min t_cfg

K_s is k/s rounded up to 64 and never below 256 (or k): a split shorter than that does not pay. Each configuration
grows with m, n and k, so their minimum does. A class whose library has lower tiles (matrix-vector kernels) says so by
`rows`, the height of its lowest; tiles are then no higher than the tokens need. P and B stay below the datasheet's, so
no shape beats the roofline.
The form follows the study quoted in the facts on kernel forms (tile menu and split-K together).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms.base import Floats, Form, Parameter, Parameters, Timing, bytes_per_s, pnorm, share
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Gemm, dtype_bytes

TILES = ((64, 64), (64, 128), (128, 64), (64, 256), (128, 128), (128, 256), (256, 128))
SPLITS = (1, 2, 4, 8, 16, 32)
_CONFIGURATIONS = np.array([(tm, tn, s) for tm, tn in TILES for s in SPLITS], float)


class GemmForm(Form[Gemm]):
    """Time of `Gemm`."""

    op: ClassVar[str] = "gemm"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 0.3e-6, 20e-6, 3e-6, "launch and drain"),
        Parameter("peak", "1", 0.4, 1.0, 0.8, "share of the datasheet's FLOP/s"),
        Parameter("bandwidth", "1", 0.5, 1.0, 0.9, "share of the datasheet's bytes/s"),
        Parameter("p", "1", 1.0, 16.0, 4.0, "sharpness of the knee"),
        Parameter("k0", "1", 1.0, 2000.0, 100.0, "prologue and epilogue of a tile, in steps of k"),
        Parameter("t_r", "s", 0.1e-6, 10e-6, 2e-6, "starting a split-K reduction"),
        Parameter("b_red", "B/s", 0.5e12, 30e12, 5e12, "bytes/s of the split-K reduction"),
        Parameter("x_half", "B", 1e3, 3e7, 1e6, "bytes at which the memory's ramp costs as much again"),
        Parameter("beta", "1", 0.0, 1.0, 0.6, "how whole the waves are"),
    )

    def kernel_class(self, op: Gemm) -> str:
        """One set per compute dtype."""
        return f"gemm.{op.compute_dtype()}"

    def timing(self, op: Gemm, p: Parameters, chip: Chip) -> Timing:
        """Best of the menu for every shape."""
        m, n, k = (np.asarray(a, float)[..., None] for a in np.broadcast_arrays(op.m, op.n, op.k))
        hbm = np.asarray(op.hbm_bytes(), float)[..., None]
        memory = (hbm + p["x_half"]) / bytes_per_s(chip, p["bandwidth"])
        tm, tn, split = _CONFIGURATIONS.T
        if "rows" in p:
            tm = np.minimum(tm, np.ceil(m / p["rows"]) * p["rows"])
        tiles = np.ceil(m / tm) * np.ceil(n / tn) * split
        compute = _compute(tiles, tm * tn, _depth(k, split) + p["k0"], p, chip, op.compute_dtype())
        extra = np.where(split > 1, p["t_r"] + 4.0 * split * m * n / p["b_red"], 0.0)
        times = pnorm(p["p"], compute, memory) + extra
        best = np.argmin(times, axis=-1)[..., None]
        comp, mem = _pick(compute, best), memory[..., 0]
        reduction = _pick(np.broadcast_to(extra, times.shape), best)
        knee = _pick(times, best) - reduction
        executed = 2.0 * _pick(tiles * tm * tn / split * np.ones_like(times), best) * np.ceil(k[..., 0] / 64) * 64
        return Timing(
            time_s=p["t0"] + knee + reduction,
            compute_s=knee * share(p["p"], comp, mem) + reduction,
            compute_term_s=comp,
            memory_term_s=mem,
            link_term_s=0.0,
            fixed_s=p["t0"] + reduction,
            flop_executed=executed,
            hbm_bytes=hbm[..., 0],
            link_bytes=0.0,
            operand_bytes=(n * k * dtype_bytes(op.compute_dtype()))[..., 0],
        )


def _depth(k: Floats, split: Floats) -> Floats:
    whole = np.ceil(k / 64) * 64
    return np.asarray(np.maximum(np.ceil(k / split / 64) * 64, np.minimum(whole, 256)))


def _compute(tiles: Floats, area: Floats, depth: Floats, p: Parameters, chip: Chip, dtype: str) -> Floats:
    waves = tiles / chip.sms
    whole = p["beta"] * np.ceil(waves) + (1 - p["beta"]) * np.maximum(waves, 1.0)
    per_step = 2.0 * area * chip.sms / (p["peak"] * chip.peak(dtype))
    return np.asarray(whole * per_step * depth)


def _pick(values: Floats, index: npt.NDArray[np.intp]) -> Floats:
    return np.asarray(np.take_along_axis(values, index, axis=-1)[..., 0])
