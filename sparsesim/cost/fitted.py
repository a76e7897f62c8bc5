"""Fitted constants: reading hwprofiles/fits/NAME.json, and correcting a form near the shapes that were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.errors import InputError, Problem
from sparsesim.loading import search_folders

Floats = npt.NDArray[np.float64]
NEIGHBOURS = 8
FADE_OCTAVES = 3.0
"""Distance over which a correction fades (facts: kernel forms, fitting recipe 5)."""
WIDEN_PER_OCTAVE = 0.5
"""Growth of the interval with each octave beyond the median distance of the data (same place)."""
TRANSFER_HALF_WIDTH = 0.05
"""Added to the interval's half-width (log) for another GPU than the measured one (same place)."""
SIBLING_HALF_WIDTH = 0.15
"""Added where a class has only a sibling's constants: about the spread between measured siblings' medians."""
PRIOR_HALF_WIDTH = 0.5
"""Half-width (log) of the 90 % interval of a class without any data: datasheet rooflines are 40-80 % off."""


@dataclass(frozen=True)
class ClassFit:
    """Constants of one kernel class and how well they did.

    `half_width` is the 90 % quantile of the absolute log error on left-out rows; `coordinates` [rows, sizes] (log2) and
    `log_ratio` [rows] are the residuals, `distance` the median log2 distance between neighbouring rows.
    """

    parameters: Mapping[str, float]
    half_width: float
    rows: int
    distance: float
    coordinates: Floats
    log_ratio: Floats
    errors: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.coordinates)

    def near(self, points: Floats) -> tuple[Floats, Floats]:
        """Log correction and distance to the data of points [n, sizes]: inverse-distance mean of 8 rows, fading out.

        Raises:
            InputError: the fit was made of ops with other columns.

        """
        if len(self.log_ratio) == 0:
            return np.zeros(len(points)), np.full(len(points), np.inf)
        of_fit, of_op = self.coordinates.shape[1], points.shape[1]
        if of_fit != of_op:
            why = f"a fit's rows have {of_fit} sizes where the op has {of_op}: fitted by another version; fit it anew"
            raise InputError(Problem(why))
        k = min(NEIGHBOURS, len(self.log_ratio))
        distance, index = self._tree.query(points, k=k)
        distance, index = distance.reshape(len(points), k), index.reshape(len(points), k)
        weight = 1.0 / (distance + 1e-3)
        mean = (weight * self.log_ratio[index]).sum(axis=1) / weight.sum(axis=1)
        nearest = distance[:, 0]
        return mean * np.exp(-((nearest / FADE_OCTAVES) ** 2)), nearest

    def half_widths(self, nearest: Floats) -> Floats:
        """Half-width (log) of the 90 % interval at a distance from the data."""
        beyond = np.clip(nearest - self.distance, 0.0, 8.0)
        return self.half_width * (1.0 + WIDEN_PER_OCTAVE * beyond)


@dataclass(frozen=True)
class Fit:
    """A profile's fitted classes and energy coefficients; empty where nothing was measured.

    `inherited` names the classes taken over from the fit of another chip, `base`.
    """

    name: str = ""
    base: str = ""
    classes: Mapping[str, ClassFit] = field(default_factory=dict)
    energy: Mapping[str, Any] = field(default_factory=dict)
    launch_s: float = 0.0
    inherited: frozenset[str] = frozenset()

    def of(self, kernel_class: str) -> tuple[str, ClassFit] | None:
        """The class's fit, or that of its sibling `op.*` that shares most words and then has most rows; with its name.

        Forms are shares of the datasheet, so a sibling's constants (another dtype's, another pass's) are a start.
        """
        if kernel_class in self.classes:
            return kernel_class, self.classes[kernel_class]
        words = kernel_class.split(".")
        siblings = [name for name in self.classes if name.split(".")[0] == words[0]]
        if not siblings:
            return None
        best = max(siblings, key=lambda name: (len(set(words) & set(name.split("."))), self.classes[name].rows))
        return best, self.classes[best]


@lru_cache(maxsize=32)
def load_fit(name: str | None, base: str | None = None) -> Fit:
    """The fit that a profile names, completed by the classes of its base; an empty one for a profile without.

    Raises:
        InputError: the file is damaged.

    """
    own = _named(name) if name else Fit()
    if base is None:
        return own
    below = _named(base)
    missing = {key: value for key, value in below.classes.items() if key not in own.classes}
    return Fit(
        name=own.name or base,
        base=base,
        classes={**missing, **own.classes},
        energy=_completed(below.energy, own.energy),
        launch_s=own.launch_s or below.launch_s,
        inherited=frozenset(missing),
    )


def _completed(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Own coefficients, and a base's where there are none, dtype by dtype."""
    both = {name: _completed(below[name], own[name]) for name in below if isinstance(own.get(name), dict)}
    return {**below, **own, **both}


def _named(name: str) -> Fit:
    for folder in search_folders("hwprofiles"):
        path = folder / "fits" / f"{name}.json"
        if path.is_file():
            return _read(path, name)
    return Fit(name)


def _read(path: Path, name: str) -> Fit:
    try:
        raw = json.loads(path.read_text())
        classes = {key: _class(value) for key, value in raw["classes"].items()}
        return Fit(name, "", classes, raw.get("energy", {}), raw.get("launch_s") or 0.0)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            Problem(f"damaged fit: {error!r}", place=str(path), hint="re-make it with sparsesim fit")
        ) from None


def _class(raw: Mapping[str, Any]) -> ClassFit:
    residuals = raw.get("residuals", {})
    coordinates = np.asarray(residuals.get("coordinates", []), float)
    return ClassFit(
        parameters=raw["parameters"],
        half_width=float(raw["half_width"]),
        rows=int(raw["rows"]),
        distance=float(raw.get("distance", 1.0)),
        coordinates=coordinates.reshape(len(coordinates), -1) if coordinates.size else np.zeros((0, 1)),
        log_ratio=np.asarray(residuals.get("log_ratio", []), float),
        errors=raw.get("errors", {}),
    )
