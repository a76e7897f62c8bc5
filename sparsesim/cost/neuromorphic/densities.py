"""How many inputs of each projection are not zero: published or measured sets, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from sparsesim.errors import InputError, Problem, closest
from sparsesim.families import Frozen
from sparsesim.hardware.figure import Figure
from sparsesim.loading import available, build, find, load_yaml

KIND = "scenarios/densities"
Phase = Literal["prefill", "generate"]
PHASES: tuple[Phase, ...] = ("prefill", "generate")


class Density(Frozen):
    """Share of non-zero inputs, token by token, as a histogram; a bare number is the same share for every token."""

    densities: tuple[float, ...] = Field(min_length=1, description="shares of non-zero inputs")
    counts: tuple[float, ...] = Field(min_length=1, description="tokens that had each of them")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"densities": (value,), "counts": (1.0,)}
        return value

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if len(self.densities) != len(self.counts):
            raise ValueError(f"{len(self.densities)} densities but {len(self.counts)} counts")
        outside = [d for d in self.densities if not 0.0 <= d <= 1.0]
        if outside:
            raise ValueError(f"density {outside[0]:g} is outside 0 to 1")
        if min(self.counts) < 0 or sum(self.counts) <= 0:
            raise ValueError("counts must be at least 0 and not all 0")
        return self

    @property
    def mean(self) -> float:
        """Over the tokens."""
        return float(np.average(self.densities, weights=self.counts))

    def draw(self, tokens: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Densities of single tokens."""
        weights = np.asarray(self.counts) / sum(self.counts)
        return np.asarray(rng.choice(self.densities, size=tokens, p=weights))


class ByPhase(Frozen):
    """A figure for each way of running."""

    prefill: Figure[float]
    generate: Figure[float]

    def of(self, phase: Phase) -> Figure[float]:
        """The figure of a phase."""
        return self.prefill if phase == "prefill" else self.generate


class DensitySet(Frozen):
    """Densities of a model's projections.

    `communication` is that of the residual stream that goes from block to block; `mac_ratio` holds the published ratio
    of executed to dense multiply-adds (slowest block in prefill, mean in generate) where it was published.
    """

    name: str
    model: str = Field(description="the model they were measured on; `any` for all")
    reference: str = Field(description="the set of the dense model that speed-ups are against")
    source: str = Field(min_length=1)
    densities: dict[str, Density] = Field(min_length=1, description="by projection: i, f, g, o, up, down, head, ...")
    layers: dict[int, dict[str, Density]] = Field(default_factory=dict, description="of single layers, from 0")
    communication: ByPhase
    mac_ratio: ByPhase | None = None

    @field_validator("layers", mode="before")
    @classmethod
    def _numbered(cls, layers: Any) -> Any:
        if not isinstance(layers, dict):
            return layers
        wrong = [key for key in layers if not str(key).isdigit()]
        if wrong:
            raise ValueError(f"layers are numbered from 0; {wrong[0]!r} is not a number")
        return {int(key): value for key, value in layers.items()}

    def of(self, layer: int, projection: str) -> Density:
        """Of the inputs of one projection of one layer.

        Raises:
            InputError: the set has no such projection; names those it has.

        """
        found = self.layers.get(layer, {}).get(projection) or self.densities.get(projection)
        if found is None:
            raise InputError(
                Problem(
                    f"{self.name} has no density for projection {projection!r}",
                    path=f"densities.{projection}",
                    hint=f"it has {', '.join(self.densities)}; add it to the file, or use densities of this model",
                )
            )
        return found


def everywhere(density: float, projections: Mapping[str, Any] | tuple[str, ...], name: str = "") -> DensitySet:
    """The same density for every projection and for the residual stream (1.0: the dense model)."""
    given = Figure[float](value=density, source="assumed: asked for")
    return DensitySet(
        name=name or f"density {density:g} everywhere",
        model="any",
        reference="",
        source="assumed: asked for",
        densities={p: Density.model_validate(density) for p in projections},
        communication=ByPhase(prefill=given, generate=given),
    )


def load_densities(name: str) -> DensitySet:
    """The set of a name, or of a path to a YAML file.

    Raises:
        InputError: unknown name (with the closest), or a faulty file.

    """
    return _read(find(KIND, name, "densities"))


@lru_cache(maxsize=64)
def _read(path: Path) -> DensitySet:
    densities: DensitySet = build(DensitySet, load_yaml(path))
    return densities


def density_names() -> list[str]:
    """Names of every set found."""
    return available(KIND)


def known_phase(phase: str) -> Phase:
    """`phase` as one of the two.

    Raises:
        InputError: it is neither.

    """
    for known in PHASES:
        if phase == known:
            return known
    raise InputError(Problem(f"unknown phase {phase!r}", path="phase", hint=closest(phase, PHASES)))
