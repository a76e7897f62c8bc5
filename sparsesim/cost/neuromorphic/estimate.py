"""What a model costs on an event-driven device: one call, plain values out.

    events     time and energy of the events that the densities leave over (cost.neuromorphic.closed_form)
    published  the published form: throughput of the dense model on this device times the published speed-up
               (cost.neuromorphic.published), energy either static + events, or constant power

The published form takes all multiply-adds of the dense model as executed and compares with its measurement; the events
of the dense reference carry the dense model's own densities, since cores skip zeros in it too. The reference itself has
speed-up 1 in both.
"""

from __future__ import annotations

from collections.abc import Mapping as Mapped
from dataclasses import dataclass, replace
from typing import Literal

from sparsesim.cost.neuromorphic import published
from sparsesim.cost.neuromorphic.closed_form import COMPONENTS, StageLoad, TokenCost, token_cost
from sparsesim.cost.neuromorphic.densities import DensitySet, Phase, known_phase, load_densities
from sparsesim.cost.neuromorphic.machine import Machine, machine
from sparsesim.cost.neuromorphic.mapping import Mapping, Spread, map_stages
from sparsesim.cost.neuromorphic.stages import Stage, stages_of
from sparsesim.errors import InputError, Problem, closest
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.model.arch import Model

Method = Literal["events", "published"]
METHODS: tuple[Method, ...] = ("events", "published")


@dataclass(frozen=True, slots=True)
class NeuromorphicEstimate:
    """A model on an event-driven device in one phase, batch 1.

    `time_per_token_s` is the interval between tokens; `total_s` that of `length_tok` tokens of the phase, the filling
    of the pipeline included. `energy_j` is J/token by component; `constant_power_j` J/token by the published variant.
    `mac_ratio` is executed over dense multiply-adds: of the slowest layer in prefill, of the model in generate.
    """

    model: str
    device: str
    chips: int
    chips_needed: int
    cores: int
    why: str
    phase: Phase
    length_tok: int
    batch: int
    method: Method
    densities: str
    time_per_token_s: float
    total_s: float
    energy_j: Mapped[str, float]
    constant_power_j: float
    dense_time_per_token_s: float
    speed_up: float
    active_macs: float
    macs: float
    mac_ratio: float
    stages: tuple[StageLoad, ...]
    kind: str
    provenance: str

    @property
    def tok_per_s(self) -> float:
        """Throughput."""
        return 1.0 / self.time_per_token_s

    @property
    def j_per_token(self) -> float:
        """All components."""
        return sum(self.energy_j.values())

    @property
    def power_w(self) -> float:
        """Mean power of the chips in use."""
        return self.j_per_token / self.time_per_token_s


def neuromorphic_estimate(
    model: Model,
    device: Neuromorphic,
    phase: str,
    densities: DensitySet,
    reference: DensitySet | None = None,
    *,
    length_tok: int = 500,
    batch: int = 1,
    chips: int | None = None,
    method: Method = "events",
    spread: Spread = "memory",
    head: bool = False,
) -> NeuromorphicEstimate:
    """Time and energy of a model in one phase ("prefill" or "generate").

    Args:
        model: recurrent layers and plain projections.
        device: event-driven; `chips` overrides the size of its system.
        phase: which way of running: pipelined or fall-through.
        densities: of the model as it runs.
        reference: of the dense model that it is compared with; default: the set that `densities` names, or itself.
        length_tok: tokens of the prompt, or generated ones; throughput does not depend on it, total time does.
        batch: sequences at once; above what the device holds is an error.
        chips: in the system.
        method: `events` or `published`.
        spread: fewest cores, or all cores of the chips in use.
        head: whether the LM head is on the chips too (it is not in the publications).

    Raises:
        InputError: unknown phase or method, batch above the device's, a layer no core holds, densities missing or of
            another model.
        DoesNotFitError: the system has too few chips.

    """
    known = _checked(phase, method, batch, length_tok, device)
    _same_model(model, densities)
    if reference is None:
        reference = load_densities(densities.reference) if densities.reference else densities
    m = machine(device.with_chips(chips) if chips is not None else device)
    stages = stages_of(model, densities, known, head=head)
    mapping = map_stages(stages, m, spread)
    cost = token_cost(mapping, m, known)
    dense_stages = stages_of(model, reference, known, head=head)
    dense = token_cost(map_stages(dense_stages, m, spread), m, known)
    ratio = _ratio(stages, densities, known, method)
    gain = dense.interval_s / cost.interval_s
    if method == "published" and densities.name != reference.name:
        gain = published.speed_up(ratio, densities.communication.of(known).value)
        cost = _at_interval(cost, dense.interval_s / gain, m, mapping)
    dense_j = sum(dense.energy_j.values())
    return NeuromorphicEstimate(
        model=model.name,
        device=device.name,
        chips=mapping.chips,
        chips_needed=mapping.chips,
        cores=mapping.cores,
        why=mapping.why,
        phase=known,
        length_tok=length_tok,
        batch=batch,
        method=method,
        densities=densities.name,
        time_per_token_s=cost.interval_s,
        total_s=(length_tok - 1) * cost.interval_s + cost.latency_s,
        energy_j={name: cost.energy_j[name] for name in COMPONENTS},
        constant_power_j=published.constant_power_energy(dense_j, gain),
        dense_time_per_token_s=dense.interval_s,
        speed_up=gain,
        active_macs=sum(s.active_macs for s in stages),
        macs=float(sum(s.macs for s in stages)),
        mac_ratio=ratio,
        stages=cost.stages,
        kind="fitted" if m.fitted and densities.name == reference.name else "projected",
        provenance=f"{device.calibration}; densities {densities.source}",
    )


def _checked(phase: str, method: str, batch: int, length_tok: int, device: Neuromorphic) -> Phase:
    problems = []
    if method not in METHODS:
        problems.append(Problem(f"unknown method {method!r}", path="method", hint=closest(method, METHODS)))
    most = device.sequences.value
    if not 1 <= batch <= most:
        works = f"batch 1 to {most}" if most > 1 else "batch 1"
        hint = f"{works} works ({device.sequences.source}); for more, use more replicas or a GPU"
        problems.append(Problem(f"batch {batch}: {device.name} holds {most} sequence(s) at once", "batch", hint=hint))
    if length_tok < 1:
        problems.append(Problem(f"{length_tok} tokens: at least one is needed", path="length_tok"))
    if problems:
        raise InputError(problems)
    return known_phase(phase)


def _same_model(model: Model, densities: DensitySet) -> None:
    if densities.model not in (model.name, "any"):
        hint = f"use densities of {model.name}, or model {densities.model}"
        raise InputError(Problem(f"{densities.name} was measured on {densities.model}", "densities", hint=hint))


def _ratio(stages: tuple[Stage, ...], densities: DensitySet, phase: Phase, method: Method) -> float:
    if method == "published" and densities.mac_ratio is not None:
        return densities.mac_ratio.of(phase).value
    if phase == "prefill":
        return max(stage.ratio for stage in stages)
    return sum(stage.active_macs for stage in stages) / sum(stage.macs for stage in stages)


def _at_interval(cost: TokenCost, interval_s: float, m: Machine, mapping: Mapping) -> TokenCost:
    """The same events in another time: only static energy changes."""
    energy = {**cost.energy_j, "static": m.static_w * mapping.chips * interval_s}
    scale = interval_s / cost.interval_s
    return replace(cost, interval_s=interval_s, latency_s=cost.latency_s * scale, energy_j=energy)
