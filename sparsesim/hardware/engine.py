"""Engine profiles: what a serving engine adds to its kernels."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field

from sparsesim import units
from sparsesim.families import Frozen
from sparsesim.hardware.figure import Figure
from sparsesim.loading import available, build, find, load_yaml

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
    gap: Figure[units.Seconds] = Field(description="between two kernels inside a CUDA graph")
    launch: Figure[units.Seconds] = Field(description="of the host for a kernel outside of graphs")
    graph_tok: Figure[int] = Field(description="tokens of a step up to which graphs are used; 0: never")
    reserve: Figure[units.Bytes] = Field(description="a device's context, graphs, communicators and activations")
    quality: Figure[float] = Field(description="time of its kernels over ours")
    collectives: Figure[float] = Field(
        default_factory=lambda: Figure[float](value=1.0, source="assumed: NCCL's, as measured"),
        description="time of its collectives over NCCL's",
    )
    fused: bool = Field(True, description="fused norms, rotary embedding and activations")
    half_width: float = Field(0.2, ge=0, description="of the 90 % interval (log) that its overheads add")

    def host_s(self, sequences: float, vocab: int) -> float:
        """Host time of a step with so many sequences."""
        each = self.host_per_sequence.value + self.host_per_logit.value * vocab
        return self.host_per_step.value + each * sequences


@lru_cache(maxsize=32)
def _read(path: Path) -> Engine:
    engine: Engine = build(Engine, load_yaml(path))
    return engine


def load_engine(name: str) -> Engine:
    """The engine profile of a name or a path.

    Raises:
        InputError: unknown name (with the closest), or a faulty file.

    """
    return _read(find(_FOLDER, name, "engine"))


def engine_names() -> list[str]:
    """Names of every engine profile found."""
    return available(_FOLDER)
