"""What a token makes the cores of a layer do, step by step of its way through the layer.

A layer of P phases takes P + 1 steps. In step p < P the sources of phase p (the cores of phase p - 1; for p = 0 the
entry neurons, one per value of the residual stream, on the cores of phase 0) look at their neurons, compute them and
send; the cores of phase p take the messages in. The recurrent state is computed by the cores of phase 0, an element
as a neuron, before they send to phase 1 (to phase 0 where there is no other). In the last step the cores of the last
phase send the layer's result on. With rho_j the density of the inputs of projection j on n_j cores:

    spikes = rho_j d_in_j;   messages = n_j rho_j d_in_j;   a core: rho_j d_in_j receives, each with a synop per neuron
    generation = neurons (t_access + t_update) + spikes t_spike + messages t_message       on the sending core
    processing = receives (t_receive + neurons t_synop)                                    on the receiving core

Messages run over the mesh column by column, then row by row; one that leaves the chip crosses its link instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sparsesim.cost.neuromorphic.machine import EVENTS, Machine
from sparsesim.cost.neuromorphic.mapping import StageMap

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One step of a layer: seconds by core [cores] and by mesh link [links], messages into the busiest chip, events."""

    generation_s: Floats
    processing_s: Floats
    links_s: Floats
    crossing: float
    crossings: float
    events: dict[str, float]


@dataclass(frozen=True)
class Layout:
    """Where a layer's cores are, [cores] each: chip, column, row, phase, neurons."""

    chip: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    phase: npt.NDArray[np.int64]
    projection: npt.NDArray[np.int64]
    neurons: Floats


def layout(stage: StageMap, m: Machine) -> Layout:
    """Cores in order of their projections, tile after tile, row after row."""
    chip = stage.chips(m.cores)
    tile = (stage.first_core + np.arange(stage.cores)) % m.cores // m.cores_per_tile
    sizes = [p.cores for p in stage.projections]
    return Layout(
        chip=chip,
        column=tile % m.columns,
        row=tile // m.columns,
        phase=np.repeat([p.phase for p in stage.projections], sizes),
        projection=np.repeat(np.arange(len(sizes)), sizes),
        neurons=np.concatenate([p.outputs for p in stage.projections]).astype(float),
    )


def steps(stage: StageMap, m: Machine, next_chip: int | None) -> tuple[Step, ...]:
    """The steps of a layer whose result goes to `next_chip` (None: the last layer, its result leaves to the host)."""
    crosses = next_chip is not None and next_chip not in set(stage.chips(m.cores))
    return _steps(replace(stage, stage=replace(stage.stage, name=""), first_chip=0), m, crosses)


@lru_cache(maxsize=512)
def _steps(stage: StageMap, m: Machine, crosses: bool) -> tuple[Step, ...]:
    """Of a layer without its name and place, so that equal layers are counted once."""
    where = layout(stage, m)
    inner = [_phase_step(stage, where, phase, m) for phase in range(len(stage.stage.phases))]
    return (*inner, _exit_step(stage, where, m, crosses))


def _phase_step(stage: StageMap, where: Layout, phase: int, m: Machine) -> Step:
    sending = where.phase == (phase - 1 if phase else 0)
    neurons = _entry_neurons(stage, sending) if phase == 0 else np.where(sending, where.neurons, 0.0)
    share = neurons / neurons.sum()
    if phase == stage.stage.state_phase:
        neurons = neurons + share * stage.stage.state
    spikes = messages = crossings = 0.0
    processing = np.zeros(stage.cores)
    into = dict.fromkeys(np.unique(where.chip).tolist(), 0.0)
    flow = np.zeros((stage.cores, stage.cores))
    receives = synops = 0.0
    for index, mapped in enumerate(stage.projections):
        if mapped.phase != phase:
            continue
        here = where.projection == index
        active = mapped.projection.density * mapped.projection.d_in
        spikes += active
        messages += active * mapped.cores
        processing += here * active * (m.time_s["receive"] + where.neurons * m.time_s["synop"])
        receives += active * mapped.cores
        synops += active * mapped.projection.d_out
        flow += np.outer(share * active, here)
        for chip in np.unique(where.chip[here]).tolist():
            outside = active * float(share[where.chip != chip].sum())
            into[chip] += outside
            crossings += outside
    generation = neurons * (m.time_s["neuron_access"] + m.time_s["neuron_update"])
    generation += share * (spikes * m.time_s["spike"] + messages * m.time_s["message"])
    links_s, east_west, north_south = mesh_load(flow, where, m)
    counts = (synops, 0.0, float(neurons.sum()), spikes, messages, receives, east_west, north_south)
    return Step(generation, processing, links_s, max(into.values()), crossings, dict(zip(EVENTS, counts, strict=True)))


def _exit_step(stage: StageMap, where: Layout, m: Machine, crosses: bool) -> Step:
    """The layer's result: d_model values of which `communication` are not zero, received by the next entry neurons."""
    last = where.phase == where.phase.max()
    neurons = np.where(last, where.neurons, 0.0)
    sent = stage.stage.communication * stage.stage.d_model
    generation = neurons * (m.time_s["neuron_access"] + m.time_s["neuron_update"])
    generation += neurons / neurons.sum() * sent * (m.time_s["spike"] + m.time_s["message"])
    entry = where.phase == 0
    processing = entry * sent / entry.sum() * m.time_s["receive"]
    crossing = sent if crosses else 0.0
    counts = (0.0, 0.0, float(neurons.sum()), sent, sent, sent, 0.0, 0.0)
    return Step(generation, processing, np.zeros(1), crossing, crossing, dict(zip(EVENTS, counts, strict=True)))


def _entry_neurons(stage: StageMap, sending: npt.NDArray[np.bool_]) -> Floats:
    return np.where(sending, stage.stage.d_model / sending.sum(), 0.0)


def all_neurons(stage: StageMap) -> float:
    """Neurons of a layer, its entry neurons and elements of state included: each is looked at in every step."""
    return float(stage.stage.d_model + stage.stage.state + sum(p.d_out for p in stage.stage.projections))


def mesh_load(flow: Floats, where: Layout, m: Machine) -> tuple[Floats, float, float]:
    """Seconds of each link of the layer's chips, and hops east-west and north-south.

    `flow`: messages from core to core, [cores, cores]; only those that stay on a chip use its mesh.
    """
    seconds: list[Floats] = []
    east_west = north_south = 0.0
    for chip in np.unique(where.chip):
        here = np.flatnonzero(where.chip == chip)
        tile = where.row[here] * m.columns + where.column[here]
        to_tile = np.zeros((len(here), m.columns * m.rows))
        to_tile[np.arange(len(here)), tile] = 1.0
        between = to_tile.T @ flow[np.ix_(here, here)] @ to_tile
        grid = between.reshape(m.rows, m.columns, m.rows, m.columns)
        horizontal, vertical = _crossed(grid.sum(axis=2)), _crossed(grid.sum(axis=1).transpose(2, 0, 1))
        seconds += [horizontal.ravel() * m.time_s["hop_east_west"], vertical.ravel() * m.time_s["hop_north_south"]]
        east_west += float(horizontal.sum())
        north_south += float(vertical.sum())
    return np.concatenate(seconds), east_west, north_south


def _crossed(line: Floats) -> Floats:
    """Messages over each link of each line, both ways: [lines, from, to] -> [2, lines, positions - 1]."""
    positions = line.shape[1]
    forth = [line[:, : i + 1, i + 1 :].sum(axis=(1, 2)) for i in range(positions - 1)]
    back = [line[:, i + 1 :, : i + 1].sum(axis=(1, 2)) for i in range(positions - 1)]
    return np.array([forth, back])
