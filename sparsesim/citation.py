"""Where a scenario's figures come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsesim import __version__
from sparsesim.cost.fitted import load_fit
from sparsesim.cost.power import fitted_figures
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.figures import figures
from sparsesim.loading import data_root
from sparsesim.scenario import Scenario
from sparsesim.system import systems


def sources(name: str | Path) -> list[dict[str, Any]]:
    """Rows of what rests on which source: sparsesim, the model, the hardware's figures by source, fits and traces."""
    scenario = Scenario.load(name)
    rows = [{"what": "sparsesim", "source": f"sparsesim {__version__}, Apache-2.0"}]
    for system in systems(scenario).values():
        rows.append({"what": f"model {system.model.name}", "source": system.model.source})
        for gpu in system.gpus:
            rows += _of_gpu(gpu)
    file = getattr(getattr(scenario.workload, "arrivals", None), "file", None)
    if file:
        rows.append({"what": f"trace {file}", "source": _trace_source(str(file))})
    return rows


def _of_gpu(gpu: Gpu) -> list[dict[str, Any]]:
    """Figures of a device by source, and its fit."""
    by_source: dict[str, list[str]] = {}
    fitted = fitted_figures(gpu)
    for row in figures(gpu):
        source = f"fitted by {gpu.fit}, in place of: {row['source']}" if row["figure"] in fitted else row["source"]
        by_source.setdefault(source, []).append(row["figure"])
    rows = [{"what": f"{gpu.name}: {', '.join(names)}", "source": source} for source, names in by_source.items()]
    fit = load_fit(gpu.fit, gpu.fit_base)
    if fit.classes:
        rows.append({"what": f"{fit.name}: {len(fit.classes)} kernel classes", "source": "fitted to calibration/data"})
    return rows


def _trace_source(file: str) -> str:
    readme = data_root() / "scenarios" / "traces" / "README.md"
    name = Path(file).name
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    found = next((line for line in lines if line.startswith("|") and name in line), "")
    cells = [cell.strip() for cell in found.strip("|").split("|")]
    return "; ".join(cells[1:3]) if len(cells) > 2 else "the user's own"
