"""Engine profiles: what a serving engine adds to its kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from sparsesim import units
from sparsesim.errors import InputError, Problem
from sparsesim.families import Frozen
from sparsesim.hardware.figure import Figure
from sparsesim.loading import available, build, find, load_yaml, search_folders

_FOLDER = "hwprofiles/engines"


class Engine(Frozen):
    """Host time, launches and memory of one engine and version."""

    name: str
    title: str = ""
    host_per_step: Figure[units.Seconds] = Field(description="scheduling, sampling and detokenising of a step")
    host_per_sequence: Figure[units.Seconds] = Field(description="the same, for each sequence of the step")
    host_per_logit: Figure[units.Seconds] = Field(
        default_factory=lambda: Figure[units.Seconds](value="0 s", source="derived: tokens are sampled on the device"),
        description="of the host for each entry of the vocabulary of each sequence, where it samples the tokens",
    )
    sampling: Figure[units.Seconds] = Field(
        default_factory=lambda: Figure[units.Seconds](value="0 s", source="derived: the op list's own greedy pass"),
        description="of the device for each logit: sorting, penalties and probabilities beyond a greedy pass",
    )
    gap: Figure[units.Seconds] = Field(description="between two kernels inside a CUDA graph")
    launch: Figure[units.Seconds] = Field(description="of the host for a kernel outside of graphs")
    graph_tok: Figure[int] = Field(description="tokens of a step up to which graphs are used; 0: never")
    reserve: Figure[units.Bytes] = Field(description="a device's context, graphs, communicators and activations")
    quality: Figure[float] = Field(description="time of its kernels over ours")
    experts: Figure[float] = Field(
        default_factory=lambda: Figure[float](value=1.0, source="assumed: as ours"),
        description="time of its expert kernels over ours",
    )
    collectives: Figure[float] = Field(
        default_factory=lambda: Figure[float](value=1.0, source="assumed: NCCL's, as measured"),
        description="time of its collectives over NCCL's",
    )
    fused: bool = Field(True, description="fused norms, rotary embedding and activations")
    half_width: float = Field(0.2, ge=0, description="of the 90 % interval (log) that its overheads add")

    def sampling_s(self, sequences: float, vocab: int) -> float:
        """Device time of sampling in a step with so many sequences."""
        return self.sampling.value * sequences * vocab

    def host_s(self, sequences: float, vocab: int) -> float:
        """Host time of a step with so many sequences."""
        each = self.host_per_sequence.value + self.host_per_logit.value * vocab
        return self.host_per_step.value + each * sequences


def with_numbers(engine: Engine, values: Mapping[str, float], source: str) -> Engine:
    """The profile with numbers replaced, given as SI values."""
    figures = {name: Figure.model_construct(value=value, source=source, note="") for name, value in values.items()}
    return engine.model_copy(update=figures)


@lru_cache(maxsize=32)
def _read(path: Path) -> Engine:
    engine: Engine = build(Engine, load_yaml(path))
    return engine


@lru_cache(maxsize=32)
def load_engine(name: str, *, fitted: bool = True) -> Engine:
    """The engine profile of a name or a path, its numbers overridden by the fit where there is one.

    Raises:
        InputError: unknown name (with the closest), or a faulty file.

    """
    engine = _read(find(_FOLDER, name, "engine"))
    path = fit_path(engine.name) if fitted else None
    if path is None:
        return engine
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        source = f"fitted to {raw['data']['rows']} published rows (hwprofiles/fits/engines/{engine.name}.json)"
        fresh = with_numbers(engine, raw["values"], source)
        return fresh.model_copy(update={"half_width": float(raw["half_width"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            Problem(f"damaged fit: {error!r}", place=str(path), hint="re-make it with sparsesim fit")
        ) from None


def fit_path(name: str) -> Path | None:
    """Where an engine's fit lies, if there is one."""
    found = (folder / "fits" / "engines" / f"{name}.json" for folder in search_folders("hwprofiles"))
    return next((path for path in found if path.is_file()), None)


def engine_names() -> list[str]:
    """Names of every engine profile found."""
    return available(_FOLDER)
