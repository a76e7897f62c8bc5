"""Observations from a user's own server: vLLM's benchmark JSON beside the scenario that describes the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.calibrate.engine.fit import EngineFit, fit_engine
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.engine import load_engine
from sparsesim.published.observation import Observation
from sparsesim.run import measured
from sparsesim.scenario import Scenario
from sparsesim.system import single_pool


def observation(result: Path, scenario: Scenario) -> Observation:
    """A benchmark run as a replica kept at its mean number of requests in flight (Little's law).

    Raises:
        InputError: the file is no benchmark result, or holds no request with more than one token.

    """
    run, system = measured(result), single_pool(scenario)
    requests = run.tables["requests"]
    prompt, output = (np.asarray(requests[name], float) for name in ("prompt_tok", "output_tok"))
    latency = np.asarray(requests["e2e_s"], float)
    seconds = float(run.summary["duration_s"])
    if not len(output) or output.mean() <= 1 or seconds <= 0:
        raise InputError(Problem("holds no request of more than one token", place=str(result)))
    replicas = system.pool.replicas
    return Observation(
        group=result.stem,
        name=result.name,
        model=system.model.name,
        steps=system.steps,
        running=max(round(float(np.nansum(latency)) / seconds / replicas), 1),
        prompt_tok=max(round(float(prompt.mean())), 1),
        output_tok=float(output.mean()),
        budget_tok=int(getattr(system.pool.scheduler, "token_budget", system.model.max_context)),
        median_itl_s=float(run.summary["itl_s"]["p50"]),
        output_tok_per_s=float(run.summary["output_tok_per_s"]) / replicas,
    )


def fit_served(engine: str, scenario: Scenario, results: Sequence[Path]) -> tuple[EngineFit, dict[str, Any]]:
    """The engine fitted to a server's results, and what its fit file holds."""
    rows = [observation(result, scenario) for result in results]
    found = fit_engine(load_engine(engine), rows)
    errors = found.after[np.isfinite(found.after)]
    document = {
        "engine": engine,
        "data": {"table": ", ".join(result.name for result in results), "rows": len(rows)},
        "values": found.values,
        "covariance": found.covariance,
        "half_width": float(np.quantile(np.abs(errors), 0.9)),
    }
    return found, document
