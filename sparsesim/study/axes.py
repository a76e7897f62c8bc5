"""Values between the ends of an axis: numbers and quantities with units, on a linear or logarithmic scale.

Axes under `hardware.` change a figure of the hardware profile (`hardware.memory.bandwidth: [3 TB/s, 4 TB/s]`); such a
profile is written as a file of its own that extends the original.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsesim.errors import InputError, Problem, closest
from sparsesim.loading import find, load_yaml
from sparsesim.scenario import Scenario
from sparsesim.study.cases import HARDWARE
from sparsesim.study.points import write_text

_QUANTITY = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*)$")


def between(values: Sequence[Any], share: float) -> Any:
    """The value at a share (0 to 1) of an axis: between the ends of a numeric range, else one of a list.

    Two numbers, or two quantities of one unit, are the ends of a range; whole numbers stay whole, and ends of one sign
    that differ by a factor of ten or more are spaced logarithmically. Anything else is a list to choose from.
    """
    ends = _ends(values)
    if ends is None:
        return values[min(int(share * len(values)), len(values) - 1)]
    (low, high), unit, whole = ends
    if low * high > 0 and max(abs(low), abs(high)) >= 10 * min(abs(low), abs(high)):
        value = low * (high / low) ** share
    else:
        value = low + (high - low) * share
    if whole:
        return round(value)
    return f"{value:.12g} {unit}" if unit else value


def is_range(values: Sequence[Any]) -> bool:
    """Whether the values are the two ends of a numeric range."""
    return _ends(values) is not None


def _ends(values: Sequence[Any]) -> tuple[tuple[float, float], str, bool] | None:
    if len(values) != 2 or any(isinstance(v, bool) for v in values):
        return None
    if all(isinstance(v, int | float) for v in values):
        return (float(values[0]), float(values[1])), "", all(isinstance(v, int) for v in values)
    found = [_QUANTITY.match(v) if isinstance(v, str) else None for v in values]
    if found[0] is None or found[1] is None or found[0][2] != found[1][2] or not found[0][2]:
        return None
    return (float(found[0][1]), float(found[1][1])), found[0][2], False


def resolved(scenario: Scenario, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings with those of the hardware turned into a profile of its own below `folder`.

    Raises:
        InputError: the profile has no such figure.

    """
    own = {path: value for path, value in settings.items() if path.startswith(HARDWARE)}
    rest = {path: value for path, value in settings.items() if path not in own}
    if not own:
        return rest
    name = rest.pop("deployment.hardware", None) or _hardware(scenario)
    base = find("hwprofiles", str(name), "hardware").resolve()
    profile = load_yaml(base).values
    changed: dict[str, Any] = {"extends": str(base)}
    for path, value in own.items():
        _set_figure(changed, profile, path.removeprefix(HARDWARE), value, path)
    text = yaml.safe_dump(changed, sort_keys=True)
    key = hashlib.sha256(json.dumps([str(base), text]).encode()).hexdigest()[:12]
    target = (folder / "hwprofiles" / f"{base.stem}-{key}.yaml").resolve()
    if not target.is_file():
        write_text(target, text)
    mode = scenario.deployment.hardware.mode if scenario.deployment.hardware else None
    return {**rest, "deployment.hardware": {"name": str(target), "mode": mode} if mode else str(target)}


def _hardware(scenario: Scenario) -> str:
    if scenario.deployment.hardware is None:
        hint = "without pools"
        raise InputError(Problem("axes under hardware. need one hardware", path="deployment.pools", hint=hint))
    return scenario.deployment.hardware.name


def _set_figure(changed: dict[str, Any], profile: dict[str, Any], inner: str, value: Any, path: str) -> None:
    """Set a figure's value beside its source, which then says that it was assumed."""
    node: Any = profile
    target: Any = changed
    for part in inner.split("."):
        if not isinstance(node, dict) or part not in node:
            have = node if isinstance(node, dict) else {}
            raise InputError(
                Problem(f"no figure {part!r} in the profile", path=f"study.axes.{path}", hint=closest(part, have))
            )
        node = node[part]
        if isinstance(node, dict) and "value" not in node:
            target = target.setdefault(part, {})
        elif isinstance(node, dict):
            target[part] = {**node, "value": value, "source": f"assumed: varied by a study (was {node['value']})"}
            return
    raise InputError(
        Problem("is no single figure", path=f"study.axes.{path}", hint="such as hardware.memory.bandwidth")
    )
