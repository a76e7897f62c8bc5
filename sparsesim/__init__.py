"""sparsesim: a discrete-event simulator and analytical cost model of sparse LLM systems.

The public names are loaded when they are first used, so that kernels and measurements run where only torch is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsesim.closed_form import estimate as estimate
    from sparsesim.run import Run as Run
    from sparsesim.scenario import Scenario as Scenario
    from sparsesim.simulation import simulate as simulate

__version__ = "0.1.0"
_HOMES = {"Scenario": "scenario", "estimate": "closed_form", "simulate": "simulation", "Run": "run"}
__all__ = ["Run", "Scenario", "estimate", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsesim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sparsesim.{_HOMES[name]}"), name)
