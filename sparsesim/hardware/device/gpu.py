"""GPUs: data-centre, consumer and edge boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from sparsesim import units
from sparsesim.errors import InputError, Problem, closest
from sparsesim.families import Frozen
from sparsesim.hardware.device import Device
from sparsesim.hardware.figure import Figure


class Memory(Frozen):
    """Device memory; `unified` memory is shared with the host."""

    capacity: Figure[units.Bytes]
    bandwidth: Figure[units.BytesPerSecond]
    unified: bool = False


class Cache(Frozen):
    """The last-level cache."""

    capacity: Figure[units.Bytes]


class Clock(Frozen):
    """Core clock."""

    max: Figure[units.Hertz]


class Power(Frozen):
    """Board power: the cap, at low clocks, and idle with the clocks up."""

    cap: Figure[units.Watts]
    idle: Figure[units.Watts]
    active_idle: Figure[units.Watts]


class Link(Frozen):
    """What joins the GPUs of a node, one direction of one GPU."""

    bandwidth: Figure[units.BytesPerSecond]
    energy: Figure[units.JoulesPerByte]
    latency: Figure[units.Seconds]


class Nic(Frozen):
    """The network card of one GPU, one direction."""

    bandwidth: Figure[units.BytesPerSecond]
    energy: Figure[units.JoulesPerByte]
    latency: Figure[units.Seconds]


class Node(Frozen):
    """The host around the GPUs; `share` is the power of host and fans a GPU.

    `host_link` is the bandwidth of one GPU to host memory, one direction.
    """

    gpus: Figure[int]
    nics: Figure[int]
    share: Figure[units.Watts]
    host_link: Figure[units.BytesPerSecond] | None = None


class Coefficients(Frozen):
    """Energy a unit of work, above the static power; replaced by the fit where there is one."""

    compute: dict[str, Figure[units.JoulesPerFlop]]
    memory: Figure[units.JoulesPerByte]


class Economics(Frozen):
    """Price and embodied carbon of one device."""

    price: Figure[units.Price] | None = None
    embodied: Figure[units.Carbon] | None = None
    life: Figure[units.Seconds] | None = None


class Mode(Frozen):
    """A power mode of a board: what it changes."""

    clock: Figure[units.Hertz] | None = None
    cap: Figure[units.Watts] | None = None
    bandwidth: Figure[units.BytesPerSecond] | None = None


class Gpu(Device):
    """A GPU with its node; every figure has a source."""

    compute: dict[str, Figure[units.FlopPerSecond]]
    memory: Memory
    l2: Cache
    sms: Figure[int]
    clock: Clock
    power: Power
    link: Link | None = None
    nic: Nic | None = None
    node: Node
    energy: Coefficients
    economics: Economics = Economics()
    modes: dict[str, Mode] = Field(default_factory=dict)
    fit: str | None = Field(None, description="fit of measurements on this chip")
    fit_base: str | None = Field(None, description="fit of another chip, for what was not measured on this one")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        problems = [
            f"{name} must be above zero"
            for name, value in (
                ("memory.capacity", self.memory.capacity.value),
                ("memory.bandwidth", self.memory.bandwidth.value),
                ("sms", self.sms.value),
                ("clock.max", self.clock.max.value),
                ("power.cap", self.power.cap.value),
                *((f"compute.{d}", f.value) for d, f in self.compute.items()),
                *((("link.bandwidth", self.link.bandwidth.value),) if self.link else ()),
            )
            if value <= 0
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def transferred(self) -> bool:
        """Whether nothing was measured on this chip itself."""
        return self.fit is None and self.fit_base is not None

    def in_mode(self, mode: str) -> Gpu:
        """The board in one of its power modes: compute scales with the clock.

        Raises:
            InputError: the board has no such mode.

        """
        if mode not in self.modes:
            raise InputError(Problem(f"{self.name} has no mode {mode!r}", hint=closest(mode, self.modes)))
        chosen = self.modes[mode]
        scale = chosen.clock.value / self.clock.max.value if chosen.clock else 1.0
        compute = {d: f.model_copy(update={"value": f.value * scale}) for d, f in self.compute.items()}
        memory = self.memory.model_copy(update={"bandwidth": chosen.bandwidth}) if chosen.bandwidth else self.memory
        power = self.power.model_copy(update={"cap": chosen.cap}) if chosen.cap else self.power
        clock = Clock(max=chosen.clock) if chosen.clock else self.clock
        update = {
            "compute": compute,
            "memory": memory,
            "power": power,
            "clock": clock,
            "title": f"{self.title} ({mode})",
        }
        return self.model_copy(update=update)

    def chip(self) -> Chip:
        """The plain numbers that the cost core computes with."""
        return Chip(
            name=self.name,
            peak_flop_per_s={d: f.value for d, f in self.compute.items()},
            bandwidth_bytes_per_s=self.memory.bandwidth.value,
            capacity_bytes=self.memory.capacity.value,
            l2_bytes=self.l2.capacity.value,
            sms=self.sms.value,
            link_bytes_per_s=self.link.bandwidth.value if self.link else 0.0,
            link_s=self.link.latency.value if self.link else 0.0,
            nic_bytes_per_s=self.nic.bandwidth.value if self.nic else 0.0,
            nic_s=self.nic.latency.value if self.nic else 0.0,
            gpus_per_node=self.node.gpus.value,
            cap_w=self.power.cap.value,
            idle_w=self.power.idle.value,
            active_idle_w=self.power.active_idle.value,
        )


@dataclass(frozen=True, slots=True)
class Chip:
    """One GPU as plain SI numbers."""

    name: str
    peak_flop_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    capacity_bytes: float
    l2_bytes: float
    sms: int
    link_bytes_per_s: float
    link_s: float
    nic_bytes_per_s: float
    nic_s: float
    gpus_per_node: int
    cap_w: float
    idle_w: float
    active_idle_w: float

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of a dtype; one the chip lacks runs at the next wider one it has.

        Raises:
            InputError: no wider dtype is there either.

        """
        for candidate in (dtype, *_WIDER.get(dtype, ())):
            if candidate in self.peak_flop_per_s:
                return self.peak_flop_per_s[candidate]
        have = ", ".join(self.peak_flop_per_s)
        raise InputError(Problem(f"{self.name} does not compute in {dtype}", hint=f"it has {have}"))


_WIDER = {
    "fp4": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
}
