"""Named topologies: a YAML file with a source for every figure."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from sparsesim.families import Frozen
from sparsesim.hardware.topology.base.family import Topology
from sparsesim.loading import available, build, find, load_yaml

_FOLDER = "scenarios/topologies"
_KINDS = ("measured", "fitted", "published", "datasheet", "derived", "assumed")
_UNSOURCED = {"custom"}


class TopologyFile(Frozen):
    """A topology with its name and, for every dimensional figure, where it comes from."""

    name: str
    description: str
    topology: Topology
    sources: dict[str, str] = Field(
        description="by field: measured, fitted, published, datasheet, derived or assumed, and where"
    )

    @field_validator("sources")
    @classmethod
    def _known_kinds(cls, sources: dict[str, str]) -> dict[str, str]:
        for field, source in sources.items():
            if source.split()[0].rstrip(":,") not in _KINDS:
                raise ValueError(f"source of {field}, {source!r}, does not begin with one of {', '.join(_KINDS)}")
        return sources

    @model_validator(mode="after")
    def _every_figure_has_a_source(self) -> Self:
        if self.topology.kind in _UNSOURCED:
            return self
        figures = {name for name, value in self.topology if isinstance(value, float)}
        missing, unknown = sorted(figures - set(self.sources)), sorted(set(self.sources) - figures)
        if missing or unknown:
            raise ValueError(f"sources must name the figures {sorted(figures)}; missing {missing}, unknown {unknown}")
        return self


def load_topology(name: str) -> Topology:
    """The named topology (or the one in the YAML file at that path).

    Raises:
        InputError: unknown name, with the closest; or a faulty file.

    """
    return _read(find(_FOLDER, name, "topology")).topology


@lru_cache(maxsize=64)
def _read(path: Path) -> TopologyFile:
    file: TopologyFile = build(TopologyFile, load_yaml(path))
    return file


def topology_names() -> list[str]:
    """Names of every topology found."""
    return available(_FOLDER)
