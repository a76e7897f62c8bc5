"""Power and energy of work on a GPU, and what a power cap does to both.

    P(f) = P0 + E_core/t * (f/f_max)^m + E_rest/t

P0 is the active idle; E_core the FLOP times J/FLOP of their dtype, those of a tile's zero padding at a share of it, and
the bytes that pass through the multiprocessors, outside of matrix products or as their weights, times their J/byte;
E_rest the bytes times J/byte of the memory and the links. Where P(f_max) exceeds the cap the clock drops to f with
P(f) = cap, the part of the time that computes stretches, t(f) = t + t_core (f_max/f - 1), and the core's energy falls
to E_core (f/f_max)^m.

Kernels that ask for much more than the cap were not at f_max when their burst was measured: within milliseconds a board
holds its power below a burst cap B of its own, at a clock c with P(c) = B for the measured time. So t(f) starts from
t - t_core (1 - c) and t_core c, what the kernel would take at f_max (`at_full_clock`). That holds for each kernel by
itself, the cap for the mean over a step: among passes that ask for less than the cap a product runs faster than alone
(a gate product of 131072 tokens: 3.84 ms within an eager layer, 4.03 in a burst of its own).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsesim.cost.fitted import Fit, load_fit
from sparsesim.cost.forms.base import Floats
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.work import Array

CLOCK_EXPONENT = 1.3
"""m until it is fitted (facts: kernel forms, Energy)."""
CAP_SHARE = 690.0 / 700.0
"""Mean board power at the cap over the cap (facts: about 690 W at 700 W)."""
_LOWEST_CLOCK = 0.1
_STEPS = 40
_CLOSE = 1e-12


@dataclass(frozen=True)
class PowerModel:
    """Coefficients of one GPU: watts, J/FLOP by dtype, J/byte."""

    static_w: float
    idle_w: float
    cap_w: float
    memory_j_per_byte: float
    link_j_per_byte: float
    nic_j_per_byte: float
    compute_j_per_flop: Mapping[str, float] = field(default_factory=dict)
    exponent: float = CLOCK_EXPONENT
    sram_j_per_byte: float = 0.0
    operand_j_per_byte: float = 0.0
    burst_cap_w: float = math.inf
    padding_share: float = 1.0

    @property
    def bursts(self) -> bool:
        """Whether a burst cap is known."""
        return math.isfinite(self.burst_cap_w)

    def compute_j(self, flop: Array, executed: Array, dtype: str) -> Floats:
        """Joules of `flop` in a kernel that executes as many with its padding."""
        padding = np.maximum(np.asarray(executed, float) - flop, 0.0)
        useful = np.minimum(flop, np.asarray(executed, float))
        return np.asarray((useful + self.padding_share * padding) * self.flop_energy(dtype))

    def flop_energy(self, dtype: str) -> float:
        """J/FLOP of a dtype; one that was not measured takes bf16's in proportion to its bits."""
        if dtype in self.compute_j_per_flop:
            return self.compute_j_per_flop[dtype]
        return self.compute_j_per_flop["bf16"] * _WIDTH.get(dtype, 1.0)


_WIDTH = {"fp32": 2.0, "tf32": 2.0, "fp8": 0.5, "int8": 0.5, "fp4": 0.25, "nvfp4": 0.25}


def energy_figures(gpu: Gpu) -> dict[str, Any]:
    """What a profile says of the coefficients that a fit may replace."""
    return {
        "static_w": gpu.power.active_idle.value,
        "memory_j_per_byte": gpu.energy.memory.value,
        "link_j_per_byte": gpu.link.energy.value if gpu.link else 0.0,
        "compute_j_per_flop": {dtype: figure.value for dtype, figure in gpu.energy.compute.items()},
    }


def fitted_figures(gpu: Gpu) -> frozenset[str]:
    """Figures of a profile, by their paths, that its own fit stands in for."""
    own = load_fit(gpu.fit).energy
    paths = {"memory_j_per_byte": "energy.memory", "link_j_per_byte": "link.energy"}
    flop = (f"energy.compute.{dtype}" for dtype in own.get("compute_j_per_flop", {}))
    return frozenset(flop) | {path for name, path in paths.items() if name in own}


def figures_behind(coefficients: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that fitted coefficients stand for."""
    return {
        name: figures_behind(coefficients[name], figure) if isinstance(figure, Mapping) else figure
        for name, figure in figures.items()
        if name in coefficients
    }


def power_model(gpu: Gpu, fit: Fit, cap_w: float | None = None) -> PowerModel:
    """The profile's coefficients, fitted ones where the fit has them.

    A fitted coefficient belongs to the figure that the fitted profile had for it (`of` in the fit): another figure,
    another chip's or an edited one, scales it.
    """
    fitted, own, of = fit.energy, energy_figures(gpu), fit.energy.get("of", {})
    flop, flop_of = fitted.get("compute_j_per_flop", {}), of.get("compute_j_per_flop", {})
    flop_own = own["compute_j_per_flop"]
    static, memory, link = (
        _scaled(fitted.get(name), own[name], of.get(name))
        for name in ("static_w", "memory_j_per_byte", "link_j_per_byte")
    )
    return PowerModel(
        static_w=static,
        idle_w=gpu.power.idle.value,
        cap_w=(cap_w or gpu.power.cap.value) * fitted.get("cap_share", CAP_SHARE),
        memory_j_per_byte=memory,
        link_j_per_byte=link,
        nic_j_per_byte=gpu.nic.energy.value if gpu.nic else 0.0,
        compute_j_per_flop={d: _scaled(flop.get(d), flop_own.get(d), flop_of.get(d)) for d in {**flop_own, **flop}},
        exponent=fitted.get("exponent", CLOCK_EXPONENT),
        sram_j_per_byte=fitted.get("sram_j_per_byte", 0.0),
        operand_j_per_byte=fitted.get("operand_j_per_byte", 0.0),
        padding_share=fitted.get("padding_share", 1.0),
        burst_cap_w=gpu.power.cap.value * fitted.get("burst_cap_share", math.inf),
    )


def _scaled(fitted: float | None, figure: float | None, of: float | None) -> float:
    if fitted is None:
        return figure or 0.0
    return fitted * figure / of if figure is not None and of else fitted


def at_full_clock(
    time_s: Array, core_s: Array, core_j: Array, rest_j: Array, power: PowerModel
) -> tuple[Floats, Floats]:
    """Time and core time of a measured burst as they would be at full clock."""
    time, core, e_core, e_rest = (np.asarray(a, float) for a in np.broadcast_arrays(time_s, core_s, core_j, rest_j))
    room = np.maximum((power.burst_cap_w - power.static_w) * time - e_rest, 0.0) if power.bursts else e_core
    share = np.divide(room, e_core, out=np.ones_like(time), where=e_core > room)
    clock = np.maximum(share ** (1.0 / power.exponent), _LOWEST_CLOCK)
    return time - core * (1.0 - clock), core * clock


def clock_under_cap(time_s: Array, core_s: Array, core_j: Array, rest_j: Array, power: PowerModel) -> Floats:
    """Clock as a share of its maximum at which the mean power meets the cap (1 where it never exceeds it).

    Power falls with the clock, so bisection finds the one root; no clock below a tenth is tried.
    """
    time, core, e_core, e_rest = (np.asarray(a, float) for a in np.broadcast_arrays(time_s, core_s, core_j, rest_j))
    safe = np.where(time > 0, time, 1.0)

    def watts(f: Floats) -> Floats:
        stretched = safe + core * (1.0 / f - 1.0)
        return np.asarray(power.static_w + (e_core * f**power.exponent + e_rest) / stretched)

    return clock_where(watts, power.cap_w, safe.shape)


def clock_where(watts: Callable[[Floats], Floats], cap_w: float, shape: tuple[int, ...]) -> Floats:
    """The highest clock (share of its maximum) at which `watts`, which falls with it, is within the cap."""
    low, high = np.full(shape, _LOWEST_CLOCK), np.ones(shape)
    over = watts(high) > cap_w
    if not over.any():
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = watts(middle) > cap_w
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(over, low, 1.0)


def one_clock_under_cap(time_s: float, core_s: float, core_j: float, rest_j: float, power: PowerModel) -> float:
    """`clock_under_cap` for one step that exceeds the cap, in plain floats.

    Newton's method on E_core f^m + E_rest - (cap - P0) (t - t_core + t_core/f), which grows with f.
    """
    room, m, f = power.cap_w - power.static_w, power.exponent, 1.0
    for _ in range(_STEPS):
        value = core_j * f**m + rest_j - room * (time_s - core_s + core_s / f)
        slope = m * core_j * f ** (m - 1) + room * core_s / (f * f)
        following = min(max(f - value / slope, _LOWEST_CLOCK), 1.0) if slope > 0 else _LOWEST_CLOCK
        if abs(following - f) < _CLOSE:
            return following
        f = following
    return f
