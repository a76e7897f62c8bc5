"""Named models: one YAML each, a legend of layers and the pattern they follow."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from sparsesim.families import Frozen
from sparsesim.loading import available, build, find, load_yaml
from sparsesim.model.arch import LayerGroup, Model
from sparsesim.model.blocks import Block
from sparsesim.model.setting import Precision

KIND = "scenarios/models"


class ModelFile(Frozen):
    """A model as its YAML says it: layers by letter, repeated as the pattern says."""

    name: str
    source: str = Field(min_length=1)
    d_model: int = Field(ge=1)
    vocab: int = Field(ge=1)
    tied: bool
    max_context: int = Field(ge=1)
    layers: int = Field(ge=1, description="number of layers")
    pattern: str = Field("A", min_length=1, description="one letter per layer, repeated until all layers are named")
    blocks: dict[str, tuple[Block, ...]] = Field(min_length=1, description="the blocks of the layer behind each letter")
    precision: Precision = Precision()
    final_norm: bool = True
    norm_bias: bool = False
    head_bias: bool = False
    positions: int = Field(0, ge=0)
    mtp: tuple[Block, ...] = ()
    mtp_layers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _pattern_matches(self) -> Self:
        faults = []
        if self.layers % len(self.pattern):
            length = len(self.pattern)
            faults.append(f"a pattern of {length} letters does not fill {self.layers} layers a whole number of times")
        for letter in sorted(set(self.pattern) ^ set(self.blocks)):
            where = "in the pattern but not in blocks" if letter in self.pattern else "in blocks but not in the pattern"
            faults.append(f"letter {letter!r} is {where}")
        if faults:
            raise ValueError("pattern: " + "; ".join(faults))
        return self

    def model(self) -> Model:
        """The model with its layers in order."""
        letters = self.pattern * (self.layers // len(self.pattern))
        own = {
            name: getattr(self, name) for name in ModelFile.model_fields if name not in ("layers", "pattern", "blocks")
        }
        return Model(layers=in_a_row(self.blocks[letter] for letter in letters), **own)


def in_a_row(layers: Iterable[tuple[Block, ...]]) -> tuple[LayerGroup, ...]:
    """Equal neighbours as groups."""
    return tuple(LayerGroup(count=len(list(same)), blocks=blocks) for blocks, same in groupby(layers))


def load_model(name: str | Path) -> Model:
    """The model of a name, of a YAML, or of a Hugging Face `config.json`.

    Raises:
        InputError: unknown name (with the closest), or a file that is not understood (with the field and its place).

    """
    path = find(KIND, str(name), "model")
    return _read(path, str(path.resolve()), path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read(path: Path, _at: str, _changed_ns: int) -> Model:
    """The model in a file, read once until the file changes: a plan asks for it with every layout."""
    if path.suffix == ".json":
        from sparsesim.model.hf import read_config

        return read_config(path)
    file: ModelFile = build(ModelFile, load_yaml(path))
    return file.model()


def model_names() -> list[str]:
    """Names of all models that can be loaded."""
    return available(KIND)
