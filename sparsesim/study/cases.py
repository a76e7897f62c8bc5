"""The cases of a scenario whose study names axes: every combination of their values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsesim.loading import set_path
from sparsesim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Case:
    """One combination: its name, what it sets, and the scenario it makes."""

    name: str
    set: dict[str, Any]
    scenario: Scenario


def cases(scenario: Scenario) -> Iterator[Case]:
    """Every combination of the study's axes, the last one varying fastest; the scenario itself without a study.

    Raises:
        InputError: an axis names no key, or a value is not accepted there.

    """
    axes = scenario.study.axes if scenario.study else {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        yield Case(case_name(settings) or scenario.title or scenario.model, settings, varied(scenario, settings))


def varied(scenario: Scenario, settings: dict[str, Any]) -> Scenario:
    """The scenario with values set at dotted paths, its study left out."""
    document = scenario.document
    document = set_path(document, "study", None, "study") if "study" in document.values else document
    for path, value in settings.items():
        document = set_path(document, path, value, f"study.axes.{path}")
    return Scenario.from_document(document)


def case_name(settings: dict[str, Any]) -> str:
    """The values alone where one axis varies, else `key=value` by the keys' last words."""
    if len(settings) == 1:
        return _short(next(iter(settings.values())))
    return " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in settings.items())


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
