"""Chips whose cores hold their weights: event-driven (Loihi, SpiNNaker) or arrays with no other memory (NorthPole)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from sparsesim import units
from sparsesim.families import Frozen
from sparsesim.hardware.device import Device
from sparsesim.hardware.figure import Figure


class Event(Frozen):
    """What one event costs the core (or the link) it happens on."""

    energy: Figure[units.JoulesPerEvent]
    time: Figure[units.Seconds]


class Hop(Frozen):
    """A message passing one link of the mesh, by direction."""

    east_west: Event
    north_south: Event


class Events(Frozen):
    """Everything an event-driven core does for a token.

    A neuron that passes its threshold makes a `spike`, sent as one `message` to each core that listens; that core
    takes it in (`receive`) and does one `synop` for each of its neurons.
    """

    synop: Event = Field(description="one weight times one received value, added to a neuron")
    neuron_access: Event = Field(description="looking at a neuron's state, at every step")
    neuron_update: Event = Field(description="computing a neuron's new state, once a token")
    spike: Event = Field(description="a neuron giving out its value")
    message: Event = Field(description="sending that value to one core")
    receive: Event = Field(description="taking a message in")
    hop: Hop


class Mesh(Frozen):
    """Tiles of a chip, joined to their four neighbours."""

    columns: Figure[int]
    rows: Figure[int]
    cores_per_tile: Figure[int]


class ChipLink(Frozen):
    """Between two chips: what one message costs."""

    message: Figure[units.Seconds]
    energy: Figure[units.JoulesPerEvent]


class Formats(Frozen):
    """Widths in which a core stores things; wider weights chain several synapses."""

    synapse: Figure[units.Bytes] = Field(description="one synapse")
    state: Figure[units.Bytes] = Field(description="one element of recurrent state")
    message: Figure[units.Bytes] = Field(description="the value of a message")
    chain: Figure[int] = Field(description="synapses that may be chained to one weight")


class Limits(Frozen):
    """Of one core; what is not limited is left out."""

    neurons: Figure[int]
    fan_in: Figure[int] | None = Field(None, description="distinct inputs")
    fan_out: Figure[int] | None = Field(None, description="distinct target cores of one neuron")


class ArrayChip(Frozen):
    """A chip that multiplies dense arrays from its own memory, clock by clock."""

    peak: dict[str, Figure[units.FlopPerSecond]]
    memory: Figure[units.Bytes] = Field(description="all on-chip memory")
    bandwidth: Figure[units.BytesPerSecond] = Field(description="of the on-chip memory, all cores together")


class Neuromorphic(Device):
    """A system of such chips; every figure has a source.

    `events` makes it event-driven; `array` is a synchronous chip of which only bounds are computed.
    """

    chips: Figure[int] = Field(description="of the system")
    cores: Figure[int] = Field(description="of a chip that a model may use")
    core_memory: Figure[units.Bytes]
    static: Figure[units.Watts] = Field(description="of a chip, doing nothing")
    power: Figure[units.Watts] | None = Field(None, description="of a chip at most")
    sequences: Figure[int] = Field(description="in flight at once")
    events: Events | None = None
    mesh: Mesh | None = None
    barrier: dict[str, Figure[units.Seconds]] = Field(
        default_factory=dict, description="time to end a step, by number of tiles in use"
    )
    chip_link: ChipLink | None = None
    formats: Formats | None = None
    limits: Limits | None = None
    array: ArrayChip | None = None
    fit: str | None = None
    calibration: str = Field(min_length=1, description="where the behaviour as a whole comes from")

    @field_validator("barrier", mode="before")
    @classmethod
    def _tiles(cls, barrier: object) -> object:
        """A number of tiles is a whole number above zero."""
        if not isinstance(barrier, dict):
            return barrier
        wrong = [key for key in barrier if not str(key).isdigit() or int(key) < 1]
        if wrong:
            raise ValueError(f"barrier is keyed by numbers of tiles, not {wrong[0]!r}")
        return {str(key): value for key, value in barrier.items()}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Event-driven chips need their mesh, formats, limits and barrier; every size is above zero."""
        if (self.events is None) == (self.array is None):
            raise ValueError("needs either events (event-driven) or array (synchronous)")
        wanted = ("mesh", "formats", "limits", "barrier", "chip_link") if self.events else ()
        missing = [name for name in wanted if not getattr(self, name)]
        if missing:
            raise ValueError(f"an event-driven device needs {', '.join(missing)}")
        for name in ("chips", "cores", "core_memory", "sequences"):
            if getattr(self, name).value <= 0:
                raise ValueError(f"{name} must be above zero")
        return self

    def with_chips(self, chips: int) -> Neuromorphic:
        """The same chips in a system of another size."""
        if chips < 1:
            raise ValueError(f"{chips} chips: at least one is needed")
        return self.model_copy(update={"chips": Figure[int](value=chips, source="derived: asked for")})
