"""Small scenarios that studies are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsesim.scenario import Scenario


@pytest.fixture
def values() -> dict[str, Any]:
    """Llama-3.2-1B on one H100 under a light Poisson load."""
    return {
        "model": "llama-3.2-1b",
        "deployment": {"hardware": "h100-sxm", "scheduler": {"kind": "continuous"}},
        "workload": {
            "arrivals": {"kind": "poisson", "rate": "20 /s"},
            "lengths": {"kind": "fixed", "prompt": "500 tok", "output": "60 tok"},
            "requests": 60,
        },
        "slo": {"ttft": "200 ms", "tpot": "20 ms", "percentile": 90},
    }


@pytest.fixture
def swept(values: dict[str, Any], tmp_path: Path) -> Scenario:
    """The same, swept over two loads and two batch limits."""
    axes = {"workload.arrivals.rate": ["10 /s", "20 /s"], "deployment.scheduler.max_running": [4, 64]}
    return Scenario.of({**values, "study": {"kind": "sweep", "axes": axes}}, tmp_path)
