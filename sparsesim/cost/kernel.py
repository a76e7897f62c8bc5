"""What one op costs on one GPU: seconds, joules by component, what bounds it, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.choice import dense_ops, fastest, summed
from sparsesim.cost.fitted import PRIOR_HALF_WIDTH, SIBLING_HALF_WIDTH, TRANSFER_HALF_WIDTH, ClassFit, Fit, load_fit
from sparsesim.cost.forms import FORMS, Form, Timing
from sparsesim.cost.forms.base import Floats
from sparsesim.cost.power import PowerModel, at_full_clock, clock_under_cap, power_model
from sparsesim.hardware.device.gpu import Chip, Gpu
from sparsesim.work import Array, Collective, Op, SparseFfn

BOUNDS = ("compute", "memory", "network", "host")


@dataclass(frozen=True, slots=True)
class Cost:
    """Answer to one op, per device; arrays follow the op's shape.

    `core_s` is the part of the time that stretches when clocks drop, `throttled_s` what of it the board's burst cap
    added. `half_width` is that of the 90 % interval in log.
    """

    time_s: Floats
    core_s: Floats
    throttled_s: Floats
    compute_j: Floats
    memory_j: Floats
    link_j: Floats
    static_j: Floats
    bound: npt.NDArray[np.int64]
    half_width: Floats
    flop: Floats
    hbm_bytes: Floats
    link_bytes: Floats
    sram_bytes: Floats
    operand_bytes: Floats
    kernel_class: str
    provenance: str

    @property
    def energy_j(self) -> Floats:
        """All components."""
        return self.compute_j + self.memory_j + self.link_j + self.static_j

    @property
    def full_clock_s(self) -> Floats:
        """Time at full clocks, as among kernels that leave the board power to spare."""
        return self.time_s - self.throttled_s


@dataclass(frozen=True)
class CostModel:
    """One GPU with its fit and its power cap."""

    gpu: Gpu
    chip: Chip
    fit: Fit
    power: PowerModel

    @property
    def streaming_w(self) -> float:
        """Power of the memory at its full rate, above the static one."""
        return self.chip.bandwidth_bytes_per_s * self.power.memory_j_per_byte

    def cost(self, op: Op) -> Cost:
        """Seconds and joules of an op; `regime="sustained"` holds it under the power cap."""
        if isinstance(op, SparseFfn) and op.format == "dense":
            return summed([self._of_form(part) for part in dense_ops(op)])
        if isinstance(op, SparseFfn) and op.format == "auto":
            either = fastest(self._of_form(self._sparse(op)), op, self._of_form)
            slower = either["dense"].time_s < either["sparse"].time_s
            return _chosen(np.where(slower, "dense", "sparse"), either)
        return self._of_form(op)

    def _sparse(self, op: SparseFfn) -> SparseFfn:
        """The sparse side of an `auto` FFN: TwELL, where the choice itself was not measured."""
        names = np.unique(FORMS[op.op].kernel_class(op))
        return op if all(str(name) in self.fit.classes for name in names) else replace(op, format="twell")

    def _of_form(self, op: Op) -> Cost:
        form: Form[Any] = FORMS[op.op]
        names = form.kernel_class(op)
        if isinstance(names, str):
            return self._of_class(form, op, names)
        return _chosen(names, {str(name): self._of_class(form, op, str(name)) for name in np.unique(names)})

    def _of_class(self, form: Form[Any], op: Op, kernel_class: str) -> Cost:
        found = self.fit.of(kernel_class)
        name, fitted = found if found else (kernel_class, None)
        parameters = fitted.parameters if fitted else {q.name: q.start for q in form.parameters}
        timing = form.timing(op, parameters, self.chip)
        time = np.asarray(timing.time_s, float)
        factor, half_width = self._correction(
            form, op, time.shape, fitted, own=name == kernel_class, inherited=name in self.fit.inherited
        )
        corrected = np.maximum(time * factor, np.minimum(time, self._roofline(op, timing)))
        if not op.graph and not isinstance(op, Collective):
            corrected = np.maximum(corrected, self.fit.launch_s)
        return self._priced(
            op, timing, corrected, half_width, kernel_class, self._provenance(fitted, name, kernel_class)
        )

    def _correction(
        self, form: Form[Any], op: Op, shape: tuple[int, ...], fitted: ClassFit | None, *, own: bool, inherited: bool
    ) -> tuple[Floats, Floats]:
        """Factor on the time from the residuals near the shapes, and the interval's half-width in log."""
        if fitted is None:
            return np.ones(shape), np.full(shape, PRIOR_HALF_WIDTH)
        if not own:
            return np.ones(shape), np.full(shape, fitted.half_width + SIBLING_HALF_WIDTH)
        log_ratio, nearest = fitted.near(form.coordinates(op))
        half = fitted.half_widths(nearest) + (TRANSFER_HALF_WIDTH if inherited else 0.0)
        return _shaped(np.exp(log_ratio), shape), _shaped(half, shape)

    def _roofline(self, op: Op, timing: Timing) -> Floats:
        flop = np.asarray(op.flop(), float) / self.chip.peak(op.compute_dtype())
        hbm = np.asarray(op.hbm_bytes(), float) / self.chip.bandwidth_bytes_per_s
        return np.asarray(np.maximum(flop, hbm) + 0.0 * np.asarray(timing.time_s))

    def _provenance(self, fitted: ClassFit | None, name: str, kernel_class: str) -> str:
        if fitted is None:
            return "assumed"
        word = f"transferred from {self.fit.base}" if name in self.fit.inherited else "fitted"
        return word if name == kernel_class else f"{word} as {name}"

    def _priced(
        self, op: Op, timing: Timing, time: Floats, half_width: Floats, kernel_class: str, provenance: str
    ) -> Cost:
        ones = np.ones_like(time)
        ratio = time / np.where(np.asarray(timing.time_s) > 0, timing.time_s, 1.0)
        core = np.asarray(timing.compute_s) * ratio * ones
        compute_j = self.power.compute_j(op.flop(), timing.flop_executed, op.compute_dtype()) * ones
        compute_j = compute_j + np.asarray(timing.sram_bytes) * self.power.sram_j_per_byte
        compute_j = compute_j + np.asarray(timing.operand_bytes) * self.power.operand_j_per_byte
        memory_j = np.asarray(timing.hbm_bytes) * self.power.memory_j_per_byte * ones
        per_byte = np.where(
            np.asarray(getattr(op, "nodes", 1.0)) > 1, self.power.nic_j_per_byte, self.power.link_j_per_byte
        )
        link_j = np.asarray(timing.link_bytes) * per_byte * ones
        throttled = self._throttled(op, timing, ratio, (time, core, compute_j, memory_j + link_j))
        if op.regime == "sustained":
            time, core, throttled = time - throttled, core - throttled, np.zeros_like(time)
            clock = clock_under_cap(time, core, compute_j, memory_j + link_j, self.power)
            time, core = time + core * (1.0 / clock - 1.0), core / clock
            compute_j = compute_j * clock**self.power.exponent
        terms = np.stack(
            [ones * t for t in (timing.compute_term_s, timing.memory_term_s, timing.link_term_s, timing.fixed_s)]
        )
        return Cost(
            time_s=time,
            core_s=core,
            throttled_s=throttled,
            compute_j=compute_j,
            memory_j=memory_j,
            link_j=link_j,
            static_j=self.power.static_w * time,
            bound=np.argmax(terms, axis=0),
            half_width=half_width,
            flop=np.asarray(op.flop()) * ones,
            hbm_bytes=np.asarray(timing.hbm_bytes) * ones,
            link_bytes=np.asarray(timing.link_bytes) * ones,
            sram_bytes=np.asarray(timing.sram_bytes) * ones,
            operand_bytes=np.asarray(timing.operand_bytes) * ones,
            kernel_class=kernel_class,
            provenance=provenance,
        )

    def _throttled(self, op: Op, timing: Timing, ratio: Floats, whole: tuple[Floats, Floats, Floats, Floats]) -> Floats:
        """Seconds that the burst cap added: to the kernel, or to the product that is a kernel of its own."""
        if timing.product is not None:
            seconds, flop = (np.asarray(part) * np.ones_like(ratio) for part in timing.product)
            seconds, joules = seconds * ratio, flop * self.power.flop_energy(op.compute_dtype())
            whole = seconds, seconds, joules, np.zeros_like(seconds)
        return whole[0] - at_full_clock(*whole, self.power)[0]


def _shaped(values: Floats, shape: tuple[int, ...]) -> Floats:
    """One value per row in the op's shape; a single one fills it."""
    return values.reshape(shape) if values.size == np.prod(shape, dtype=int) else np.full(shape, values[0])


def _chosen(names: npt.NDArray[np.str_], costs: dict[str, Cost]) -> Cost:
    """Each row from the cost of its own class."""
    values: dict[str, Any] = {}
    for name in Cost.__dataclass_fields__:
        if name in ("kernel_class", "provenance"):
            values[name] = " | ".join(dict.fromkeys(getattr(cost, name) for cost in costs.values()))
            continue
        choices = [np.broadcast_to(getattr(cost, name), np.shape(cost.time_s)) for cost in costs.values()]
        masks = [np.broadcast_to(names == kernel_class, choices[0].shape) for kernel_class in costs]
        values[name] = np.select(masks, choices)
    return Cost(**values)


def cost_model(gpu: Gpu, cap_w: float | None = None) -> CostModel:
    """The cost model of a profile, with its fit if there is one, under its own cap or a lower one."""
    fit = load_fit(gpu.fit, gpu.fit_base)
    return CostModel(gpu, gpu.chip(), fit, power_model(gpu, fit, cap_w))


__all__ = ["BOUNDS", "Array", "Cost", "CostModel", "cost_model"]
