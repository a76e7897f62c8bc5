"""A run: what was asked, what came out, and where it came from; written to a folder and read back.

`estimate`, `simulate` and measured servers give the same type, so that any two can stand side by side. A folder holds
manifest.json, summary.json and one Parquet file per table; without a manifest it is not a run.
"""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsesim import __version__
from sparsesim.errors import InputError, Problem
from sparsesim.metrics.economy import economy
from sparsesim.metrics.energy import timeline
from sparsesim.metrics.latency import with_latencies
from sparsesim.metrics.perfetto import write_perfetto
from sparsesim.metrics.stats import mean_summary, replication_intervals
from sparsesim.metrics.storage import MANIFEST, arrow, check_free, dumps, read_json, read_table, swap
from sparsesim.metrics.summary import summarise
from sparsesim.metrics.vllm import from_vllm, to_vllm
from sparsesim.scenario import Scenario, Slo
from sparsesim.sim.records import Columns, Records
from sparsesim.sim.request import Outcome
from sparsesim.units import parse

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["simulation", "estimate", "measurement"]
SUMMARY = "summary.json"
__all__ = ["Background", "Kind", "Run", "case_folders", "completed", "dumps", "measured", "simulated"]


@dataclass(frozen=True)
class Background:
    """What a run rests on beyond its records; shown in the report and written to the manifest.

    Attributes:
        ops: the ops table (`metrics/ops.py`), or nothing.
        bound: by phase, the share of its time that each of compute, memory, network and host takes.
        provenance: what the figures rest on, by part.
        intervals: of summary figures, beyond those of chance.
        memory: bytes of a replica by use, by pool.
        assumptions: sentences a reader should know.
        citations: what to cite.
        devices: of the deployment, in the mean where replicas come and go.
        node_share_w: power of host and fans for each device.

    """

    ops: Columns = field(default_factory=dict)
    bound: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    intervals: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    assumptions: Sequence[str] = ()
    citations: Sequence[str] = ()
    devices: float = 0
    node_share_w: float = 0.0


@dataclass(frozen=True)
class Run:
    """The result of an estimate, a simulation or a measurement; `files`: texts beside the tables, by name."""

    kind: Kind
    title: str
    summary: dict[str, Any]
    tables: dict[str, Columns]
    manifest: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether it was interrupted before its end."""
        return bool(self.manifest.get("partial", False))

    @property
    def warm_up_s(self) -> float:
        """Seconds at the start that the summary leaves out."""
        simulation = self.manifest.get("scenario", {}).get("simulation", {})
        return parse(simulation.get("warm_up", "0 s"), "time")

    def frame(self, table: str) -> pd.DataFrame:
        """A table (requests, steps, events, power, ops) as a data frame.

        Raises:
            InputError: the run has no such table.

        """
        import pandas as pd

        if table not in self.tables:
            raise InputError(Problem(f"the run has no table {table!r}", hint="one of: " + ", ".join(self.tables)))
        return pd.DataFrame(self.tables[table])

    def titled(self, title: str) -> Run:
        """The same run under another name."""
        return replace(self, title=title)

    def to_json(self) -> str:
        """The summary as JSON; what is not a finite number is null."""
        return dumps(self.summary)

    def to_vllm(self) -> dict[str, Any]:
        """The run as the JSON of vLLM's serving benchmark."""
        return to_vllm(self.summary, self.tables["requests"])

    def write_perfetto(self, path: str | Path, replication: int = 0) -> Path:
        """Write a replication as a Chrome trace, which ui.perfetto.dev shows."""
        return write_perfetto(self.tables, Path(path), replication)

    def write(self, folder: str | Path) -> Path:
        """Write the run into `folder`, all of it or nothing; a run that stood there is replaced.

        Raises:
            InputError: the folder holds something else, or cannot be written.

        """
        target = Path(folder)
        check_free(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        except OSError as error:
            raise InputError(Problem(f"cannot be written: {error.strerror}", place=str(target))) from None
        try:
            made.chmod(0o755)
            self._fill(made)
            swap(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return target

    def _fill(self, folder: Path) -> None:
        import pyarrow.parquet as parquet

        rows = {}
        for name, columns in self.tables.items():
            parquet.write_table(arrow(columns), folder / f"{name}.parquet", compression="zstd")
            rows[name] = len(next(iter(columns.values()))) if columns else 0
        for name, text in self.files.items():
            (folder / name).write_text(text)
        (folder / SUMMARY).write_text(self.to_json() + "\n")
        manifest = {"kind": self.kind, "title": self.title, **self.manifest, "tables": rows}
        (folder / MANIFEST).write_text(dumps(manifest) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """The run in a folder.

        Raises:
            InputError: it is none, or a study's of several, or a file of it is missing or broken.

        """
        place = Path(folder)
        if not (place / MANIFEST).is_file() and (cases := case_folders(place)):
            hint = f"one of: {', '.join(case.name for case in cases)}"
            raise InputError(Problem("holds the runs of a study's cases, not one run", place=str(place), hint=hint))
        manifest, summary = (read_json(place / name) for name in (MANIFEST, SUMMARY))
        tables = {name: read_table(place / f"{name}.parquet") for name in manifest.pop("tables", {})}
        return cls(manifest.pop("kind"), manifest.pop("title"), summary, tables, manifest)


def case_folders(folder: Path) -> list[Path]:
    """Run folders of a study's cases (`case-000`, ...) in a folder, in their order."""
    found = [manifest.parent for manifest in folder.glob(f"case-*/{MANIFEST}")]
    numbered = [case for case in found if re.fullmatch(r"case-\d{3,}", case.name)]
    return sorted(numbered, key=lambda case: int(case.name.removeprefix("case-")))


def measured(path: str | Path, slo: Slo | None = None) -> Run:
    """A measured server: the JSON of vLLM's serving benchmark, saved with its details.

    Raises:
        InputError: no such file, or not that.

    """
    place = Path(path)
    summary, requests = from_vllm(place, slo)
    manifest = {"versions": versions(), "citations": [f"measured: {place.name}"], "partial": False}
    return Run("measurement", place.stem, summary, {"requests": requests}, manifest)


def simulated(
    scenario: Scenario, records: Sequence[Records], background: Background, wall_s: float, title: str = ""
) -> Run:
    """The run of one or more replications of a simulated scenario.

    Raises:
        InputError: the warm-up leaves nothing to measure.

    """
    warm_up_s = scenario.simulation.warm_up
    with scenario.placing():
        for one in records:
            _check_measures(one, warm_up_s)
    summaries = [summarise(one, scenario.slo, warm_up_s) for one in records]
    summary = summaries[0] if len(summaries) == 1 else mean_summary(summaries)
    if len(summaries) > 1:
        summary["intervals"] = replication_intervals([_figures(one) for one in summaries])
    count = sum(int((one.requests["outcome"] != Outcome.unfinished.name).sum()) for one in records)
    summary |= {"wall_s": wall_s, "requests_per_wall_s": count / wall_s if wall_s > 0 else None}
    partial = any(one.partial for one in records)
    tables = {
        "requests": _stacked([with_latencies(one.requests) for one in records]),
        "steps": _stacked([one.steps for one in records]),
        "events": _stacked([one.events for one in records]),
        "power": _stacked([timeline(one) for one in records]),
    }
    return completed("simulation", scenario, summary, tables, background, partial, title)


def _check_measures(records: Records, warm_up_s: float) -> None:
    """Raise where the warm-up outlasts every arrival of a whole run."""
    last_s = float(np.max(np.asarray(records.requests["arrival_s"], float), initial=0.0))
    if records.partial or warm_up_s <= last_s:
        return
    took = f"the run took {records.end_s:.4g} s and its last request arrived at {last_s:.4g} s"
    hint = f"at most {math.floor(1000 * last_s) / 1000:.12g} s"
    raise InputError(Problem(f"{warm_up_s:g} s leaves nothing to measure: {took}", "simulation.warm_up", hint=hint))


def completed(
    kind: Kind,
    scenario: Scenario,
    summary: Mapping[str, Any],
    tables: Mapping[str, Columns],
    background: Background,
    partial: bool = False,
    title: str = "",
) -> Run:
    """A run from its figures, with what they rest on."""
    whole = dict(summary)
    whole |= {"bound": dict(background.bound), "provenance": dict(background.provenance), "partial": partial}
    whole["intervals"] = {**whole.get("intervals", {}), **background.intervals}
    if background.devices:
        whole["economy"] = economy(whole, scenario.power, background.devices, background.node_share_w)
    ops = {"ops": background.ops} if background.ops else {}
    manifest = {
        "partial": partial,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": scenario.simulation.seed,
        "versions": versions(),
        "commit": commit(),
        "scenario": scenario.model_dump(mode="json"),
        "provenance": dict(background.provenance),
        "memory": dict(background.memory),
        "devices": background.devices,
        "assumptions": list(background.assumptions),
        "citations": list(background.citations),
    }
    named = title or scenario.title or scenario.model
    return Run(kind, named, whole, {**tables, **ops}, manifest)


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in ("intervals", "slo")}


def _stacked(tables: Sequence[Columns]) -> Columns:
    """Tables of replications below each other, numbered."""
    counts = [len(next(iter(table.values()))) for table in tables]
    columns: Columns = {"replication": np.repeat(np.arange(len(tables)), counts)}
    return columns | {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"sparsesim": __version__, "python": platform.python_version(), "numpy": np.__version__}


def commit() -> str | None:
    """The checkout's commit, `-dirty` where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
