"""An event-driven device as plain SI numbers, its fitted constants applied.

What was fitted replaces or scales the profile's figures: `time_scale` and `energy_scale` multiply every core and mesh
event, `static_w` and `link_s` replace the chip's static power and the chip-to-chip message, `fall_through` is the time
from one projection to the next over the projections' own time when a single token falls through the blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.neuromorphic import Event, Neuromorphic
from sparsesim.loading import search_folders

FITTED = ("time_scale", "energy_scale", "static_w", "link_s", "fall_through")
UNFITTED: Mapping[str, float] = {"time_scale": 1.0, "energy_scale": 1.0, "fall_through": 1.0}
EVENTS = ("synop", "neuron_access", "neuron_update", "spike", "message", "receive", "hop_east_west", "hop_north_south")


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """Seconds and joules by event (`EVENTS`), and the sizes that a mapping needs; compared by identity."""

    name: str
    chips: int
    cores: int
    core_bytes: float
    neurons: int
    fan_in: int | None
    fan_out: int | None
    synapse_bytes: float
    chain: int
    state_bytes: float
    columns: int
    rows: int
    cores_per_tile: int
    time_s: Mapping[str, float]
    energy_j: Mapping[str, float]
    barriers: tuple[tuple[int, float], ...]
    link_s: float
    link_j: float
    static_w: float
    fall_through: float
    sequences: int
    fitted: bool

    def barrier_s(self, tiles: int) -> float:
        """Time to end a step with so many tiles of a chip in use: linear between the known numbers, flat beyond."""
        known, seconds = zip(*self.barriers, strict=True)
        return float(np.interp(tiles, known, seconds))


def machine(device: Neuromorphic, constants: Mapping[str, float] | None = None) -> Machine:
    """The numbers of an event-driven device; `constants` (default: those of its fit) are `FITTED`, or fewer.

    Raises:
        InputError: the device is not event-driven, or its fit is damaged.

    """
    events, mesh, link = device.events, device.mesh, device.chip_link
    formats, limits = device.formats, device.limits
    if events is None or mesh is None or link is None or formats is None or limits is None:
        raise InputError(
            Problem(f"{device.name} is not event-driven", hint="only its bounds are computed: cost.neuromorphic.bounds")
        )
    own = load_constants(device.fit) if constants is None else constants
    value = {**UNFITTED, "static_w": device.static.value, "link_s": link.message.value, **own}
    table: dict[str, Event] = {name: getattr(events, name) for name in EVENTS[:-2]}
    table |= {"hop_east_west": events.hop.east_west, "hop_north_south": events.hop.north_south}
    return Machine(
        name=device.name,
        chips=device.chips.value,
        cores=device.cores.value,
        core_bytes=device.core_memory.value,
        neurons=limits.neurons.value,
        fan_in=limits.fan_in.value if limits.fan_in else None,
        fan_out=limits.fan_out.value if limits.fan_out else None,
        synapse_bytes=formats.synapse.value,
        chain=formats.chain.value,
        state_bytes=formats.state.value,
        columns=mesh.columns.value,
        rows=mesh.rows.value,
        cores_per_tile=mesh.cores_per_tile.value,
        time_s={name: e.time.value * value["time_scale"] for name, e in table.items()},
        energy_j={name: e.energy.value * value["energy_scale"] for name, e in table.items()},
        barriers=tuple(sorted((int(tiles), figure.value) for tiles, figure in device.barrier.items())),
        link_s=value["link_s"],
        link_j=link.energy.value,
        static_w=value["static_w"],
        fall_through=value["fall_through"],
        sequences=device.sequences.value,
        fitted=bool(own),
    )


def load_constants(name: str | None) -> Mapping[str, float]:
    """The fitted constants of hwprofiles/fits/NAME.json; none where a profile names no fit or it is not made yet.

    Raises:
        InputError: the file is damaged.

    """
    if name is None:
        return {}
    for folder in search_folders("hwprofiles"):
        path = folder / "fits" / f"{name}.json"
        if path.is_file():
            return _read(path)
    return {}


@lru_cache(maxsize=8)
def _read(path: Path) -> Mapping[str, float]:
    try:
        constants = json.loads(path.read_text())["constants"]
        return {key: float(constants[key]["value"]) for key in FITTED}
    except (ValueError, KeyError, TypeError) as error:
        hint = "re-make it with python -m sparsesim.cost.neuromorphic.fit"
        raise InputError(Problem(f"damaged fit: {error!r}", place=str(path), hint=hint)) from None
