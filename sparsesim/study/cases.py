"""The cases of a scenario whose study names axes: every combination of their values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsesim.errors import InputError, Problem
from sparsesim.loading import set_path
from sparsesim.scenario import Scenario

HARDWARE = "hardware."
"""What axes begin with that change a figure of the hardware profile (`study/axes.py`)."""


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
    """The scenario with values set at dotted paths, its study left out; a mapping is laid over what stands there.

    So keys that only go together vary together: `deployment: [{dp: 8, ep: 8}, {dp: 16, ep: 16}]`. An axis that names no
    key of a scenario holds mappings from its top: `size: [{deployment: {tp: 2}, workload: {batch: 8}}, ...]`.
    """
    for path in settings:
        if path.startswith(HARDWARE):
            _refuse(scenario, path)
    document = scenario.document
    document = set_path(document, "study", None, "study") if "study" in document.values else document
    for path, value in settings.items():
        whole = isinstance(value, dict) and path not in Scenario.model_fields and "." not in path
        for key, one in _leaves("" if whole else path, value):
            document = set_path(document, key, one, f"study.axes.{path}")
    return Scenario.from_document(document)


def _refuse(scenario: Scenario, path: str) -> None:
    """Raise for an axis that a profile has to be written for, which sweeps and sensitivities do."""
    place = scenario.document.place(("study", "axes", path))
    kind = scenario.study.kind if scenario.study else ""
    hint = f"sparsesim {kind}" if kind in ("sweep", "sensitivity") else "study.kind: sweep or sensitivity"
    raise InputError(
        Problem("only sweep and sensitivity vary the hardware's figures", f"study.axes.{path}", place, hint)
    )


def case_name(settings: dict[str, Any]) -> str:
    """The values alone where one axis varies, else `key=value` by the keys' last words."""
    if len(settings) == 1:
        return _short(next(iter(settings.values())))
    return " ".join(_named(path, value) for path, value in settings.items())


def _named(path: str, value: Any) -> str:
    joint = isinstance(value, dict) and "kind" not in value
    return _short(value) if joint else f"{path.rpartition('.')[2]}={_short(value)}"


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted paths below a mapping with their values; one that says its `kind` or `name` stays whole."""
    if not isinstance(value, dict) or not value or {"kind", "name"} & set(value):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(f"{path}.{key}".lstrip("."), inner)


def _short(value: Any) -> str:
    said = next((key for key in ("kind", "name") if isinstance(value, dict) and key in value), None)
    if said:
        rest = ", ".join(f"{key}: {_short(inner)}" for key, inner in value.items() if key != said)
        return f"{value[said]}{f' ({rest})' if rest else ''}"
    if isinstance(value, dict):
        return " ".join(f"{path.rpartition('.')[2]}={_short(inner)}" for path, inner in _leaves("", value))
    return value if isinstance(value, str) else json.dumps(value)
