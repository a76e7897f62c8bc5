"""Expert FFN of one rank, from the tokens each of its experts holds.

With counts c_e of the rank's experts, R = sum c_e, h = experts with any token, H = d_model, I = d_ff / tp, b and a the
bytes of a weight and of an activation:

    for (N, K) in (gate+up: 2I, H), (down: H, I):
        mem  = (h N K b + R (K a + 2 N) + x_half) / B
        comp = min over tiles of [beta ceil(w) + (1 - beta) max(w, 1)] t_iter (K + k0)
               with w = sum_e ceil(c_e/Tm) ceil(N/Tn) / SM
        t_g  = pnorm(p; comp, mem)
    t = t0 + t_1 + t_2 + (6 R H + 6 R I + 2 c T H) a/2 / B_act

T: tokens whose activations the rank holds. Skew needs no parameter: the counts carry it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sparsesim.cost.forms.base import Floats, Form, Parameter, Parameters, Timing, bytes_per_s, pnorm, share
from sparsesim.cost.routing import rank_load
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import MoeFfn, dtype_bytes
from sparsesim.work.base import COMPUTE_DTYPE

TILES = tuple((tm, tn) for tm in (16, 32, 64, 128, 256) for tn in (64, 128, 256))


class MoeFfnForm(Form[MoeFfn]):
    """Time of `MoeFfn`."""

    op: ClassVar[str] = "moe_ffn"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("t0", "s", 1e-6, 60e-6, 15e-6, "launches, counting sort, drain"),
        Parameter("peak", "1", 0.2, 1.0, 0.65, "share of the datasheet's FLOP/s"),
        Parameter("bandwidth", "1", 0.3, 1.0, 0.8, "share of the datasheet's bytes/s"),
        Parameter("p", "1", 1.0, 16.0, 4.0, "sharpness of the knee"),
        Parameter("k0", "1", 1.0, 2000.0, 150.0, "prologue and epilogue of a tile, in steps of k"),
        Parameter("x_half", "B", 1e3, 3e7, 1e6, "bytes at which the memory's ramp costs as much again"),
        Parameter("beta", "1", 0.0, 1.0, 0.5, "how whole the waves are"),
        Parameter("activation", "1", 0.2, 3.0, 0.8, "share of the datasheet's bytes/s for activations"),
        Parameter("c", "1", 0.0, 4.0, 1.0, "passes over the rank's tokens in permute and combine"),
    )

    def kernel_class(self, op: MoeFfn) -> str:
        """One set per compute dtype."""
        return f"moe_ffn.{op.compute_dtype()}"

    def timing(self, op: MoeFfn, p: Parameters, chip: Chip) -> Timing:
        """Two grouped products and the activations' traffic."""
        shape = np.broadcast_shapes(*(np.shape(a) for a in (op.tokens, op.d_model, op.d_ff)))
        tokens, hidden, width = (
            np.broadcast_to(np.asarray(a, float), shape).ravel() for a in (op.tokens, op.d_model, op.d_ff / op.tp)
        )
        counts = rank_load(op.load, op.experts, op.top_k, op.ep).at(tokens)
        up = _grouped(counts, (2.0 if op.gated else 1.0) * width, hidden, op, p, chip)
        down = _grouped(counts, hidden, width, op, p, chip)
        rows, held = counts.sum(axis=-1), tokens / op.ep
        scale = _activation_bytes(op) / 2.0
        traffic = scale * (6.0 * rows * hidden + 6.0 * rows * width + 2.0 * p["c"] * held * hidden)
        passes = traffic / bytes_per_s(chip, p["activation"])
        fields = [
            p["t0"] + up[0] + down[0] + passes,
            up[1] + down[1],
            up[2] + down[2],
            up[3] + down[3] + passes,
            np.zeros_like(rows),
            np.full_like(rows, p["t0"]),
            up[4] + down[4],
            up[5] + down[5] + traffic,
            np.zeros_like(rows),
            traffic + up[6] + down[6],
        ]
        return Timing(*(f.reshape(shape) for f in fields))


def _activation_bytes(op: MoeFfn) -> float:
    return max(dtype_bytes(COMPUTE_DTYPE.get(op.dtype, op.dtype)), 1.0)


def _grouped(counts: Floats, n: Floats, k: Floats, op: MoeFfn, p: Parameters, chip: Chip) -> tuple[Floats, ...]:
    """Time, its clock-bound part, compute, memory, executed FLOP, bytes and operand bytes of a grouped product."""
    rows, hit = counts.sum(axis=-1), np.minimum(counts, 1.0).sum(axis=-1)
    weight, activation = dtype_bytes(op.weights or op.dtype), _activation_bytes(op)
    hbm = hit * n * k * weight + rows * (k * activation + 2.0 * n)
    memory = np.where(rows > 0, (hbm + p["x_half"]) / bytes_per_s(chip, p["bandwidth"]), 0.0)
    peak = p["peak"] * chip.peak(op.compute_dtype())
    options, executed = [], []
    for tm in sorted({tm for tm, _ in TILES}):
        blocks = np.where(counts < 1.0, counts, np.ceil(counts / tm)).sum(axis=-1)
        for tn in sorted({tn for _, tn in TILES}):
            waves = blocks * np.ceil(n / tn) / chip.sms
            whole = p["beta"] * np.ceil(waves) + (1 - p["beta"]) * np.where(rows > 0, np.maximum(waves, 1.0), 0.0)
            options.append(whole * 2.0 * tm * tn * chip.sms / peak * (k + p["k0"]))
            executed.append(2.0 * waves * chip.sms * tm * tn * k)
    best = np.argmin(options, axis=0)[None]
    compute = np.take_along_axis(np.stack(options), best, axis=0)[0]
    flop = np.take_along_axis(np.stack(executed), best, axis=0)[0]
    time = pnorm(p["p"], compute, memory)
    operand = hit * n * k * dtype_bytes(op.compute_dtype()) + rows * (k * activation + 2.0 * n)
    return time, time * share(p["p"], compute, memory), compute, memory, flop, hbm, operand
