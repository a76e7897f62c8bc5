from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import Field, model_validator

from sparsesim.errors import InputError, Problem
from sparsesim.loading import find, load_yaml
from sparsesim.model.sparsity.base import Format, LayerSparsity, Sparsity

NAMES = ("i", "f", "g", "o", "up", "down", "head")
KIND = "scenarios/densities"


class Projections(Sparsity):
    """Thresholded inputs of single projections (delta sparsification): a density for each.

    Densities are given here, the same in all layers, or by the name of a published set, which may name single layers.
    In format gemm the products multiply by the zeros; in format threshold they skip the columns of weights that no
    token of the step needs.
    """

    format: Format = "gemm"
    densities: dict[str, float] | None = Field(None, min_length=1, description=f"by projection: {', '.join(NAMES)}")
    published: str | None = Field(None, description="a set of scenarios/densities, by name, or a path to one")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if (self.densities is None) == (self.published is None):
            raise ValueError("give densities, or the name of a published set")
        _check(self.densities or {})
        return self

    def __hash__(self) -> int:
        """By its densities."""
        return hash((self.format, self.pattern, self.published, tuple(sorted((self.densities or {}).items()))))

    @cached_property
    def _everywhere(self) -> dict[str, float]:
        return self.densities if self.densities is not None else self._file[0]

    @cached_property
    def _file(self) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Means of the published set, for all layers and for single ones.

        Raises:
            InputError: unknown name, or a file that is not understood.

        """
        if self.published is None:
            return {}, {}
        path = find(KIND, self.published, "densities")
        values = load_yaml(path).values
        try:
            layers = {int(layer): _means(own) for layer, own in values.get("layers", {}).items()}
            return _means(values["densities"]), layers
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(Problem(f"not a set of densities: {error}", place=str(path))) from None

    def shape(self, index: int, layers: int) -> LayerSparsity:
        """Of the layer."""
        del layers
        own = {**self._everywhere, **self._file[1].get(index, {})}
        return LayerSparsity(projections=tuple(sorted(own.items())))

    def head_density(self) -> float:
        """Of the LM head's input."""
        return self._everywhere.get("head", 1.0)


def _check(densities: Mapping[str, float]) -> None:
    unknown = sorted(set(densities) - set(NAMES))
    if unknown:
        raise ValueError(f"unknown projections {', '.join(unknown)}; known: {', '.join(NAMES)}")
    for name, density in densities.items():
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"{name}: density {density:g} must lie in [0, 1]")


def _means(densities: Mapping[str, Any]) -> dict[str, float]:
    """Numbers as they are, histograms by their mean."""
    means = {name: _mean(value) for name, value in densities.items()}
    _check(means)
    return means


def _mean(value: Any) -> float:
    if not isinstance(value, dict):
        return float(value)
    pairs = list(zip(value["densities"], value["counts"], strict=True))
    return float(sum(d * c for d, c in pairs) / sum(c for _, c in pairs))
