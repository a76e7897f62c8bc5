"""Points of a study: one scenario each, answered once, its result written whole under the hash of what was asked.

A folder of `points/<hash>.json` is the memory of a study. Whoever answers a point writes its file; progress, `--resume`
and the summary read the folder, so that no backend needs more than to call a function.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsesim import __version__
from sparsesim.closed_form import estimate
from sparsesim.run import dumps
from sparsesim.scenario import Scenario
from sparsesim.simulation import simulate
from sparsesim.study.cases import case_name, varied
from sparsesim.workload.kinds.static import Static
from sparsesim.workload.kinds.training import Training

VOLATILE = ("wall_s", "requests_per_wall_s")
"""Figures of the machine that computed a point, not of what was asked: left out, so that all backends agree."""


@dataclass(frozen=True)
class Point:
    """A scenario to be answered: plain values, so that it travels to any worker."""

    name: str
    set: dict[str, Any]
    values: dict[str, Any]
    folder: str
    evaluation: str

    @property
    def hash(self) -> str:
        """Of what is asked and of the version that answers it."""
        asked = {"values": self.values, "folder": self.folder, "evaluation": self.evaluation, "version": __version__}
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:20]

    def path(self, folder: Path) -> Path:
        """Where its result lies."""
        return folder / f"{self.hash}.json"


def point(scenario: Scenario, settings: dict[str, Any], evaluation: str) -> Point:
    """The point of a scenario with values set.

    Raises:
        InputError: a path or a value that the scenario does not take.

    """
    one = varied(scenario, settings)
    values = {key: value for key, value in one.document.values.items() if key != "study"}
    return Point(case_name(settings) or scenario.title, settings, values, str(one.folder.resolve()), evaluation)


def answer(one: Point) -> dict[str, Any]:
    """The summary of a point, without what depends on the machine."""
    scenario = Scenario.of(one.values, Path(one.folder))
    closed = one.evaluation == "estimate" or isinstance(scenario.workload, Static | Training)
    run = estimate(scenario) if closed else simulate(scenario)
    if run.partial:
        raise KeyboardInterrupt
    return {name: value for name, value in run.summary.items() if name not in VOLATILE}


def evaluate(one: Point, folder: str) -> str:
    """Answer a point and write its file; the file's text. A faulty point writes its error and does not stop others."""
    from sparsesim.errors import SparsesimError

    try:
        found: dict[str, Any] = {"name": one.name, "set": one.set, "summary": answer(one)}
    except SparsesimError as error:
        found = {"name": one.name, "set": one.set, "error": str(error)}
    text = dumps(found) + "\n"
    write_text(one.path(Path(folder)), text)
    return text


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read(one: Point, folder: Path) -> dict[str, Any] | None:
    """A point's result where there is a whole one."""
    try:
        found: dict[str, Any] = json.loads(one.path(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


Ended = Callable[[int, int], None]
"""Called with the points that have ended, and all of them."""
