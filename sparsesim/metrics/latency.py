"""Latencies of requests, and how a set of numbers is summed up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sparsesim.metrics.columns import floats, whole
from sparsesim.scenario import Slo
from sparsesim.sim.records import Columns
from sparsesim.sim.request import Outcome
from sparsesim.sim.steps import Floats

PERCENTILES = (50, 90, 95, 99)


def with_latencies(requests: Columns) -> Columns:
    """The request columns with ttft_s, tpot_s, e2e_s and queue_s (NaN where there is none)."""
    arrival, first, finish = (floats(requests, name) for name in ("arrival_s", "first_token_s", "finish_s"))
    gaps = floats(requests, "output_tok") - 1.0
    tpot = np.divide(finish - first, gaps, out=np.full(len(gaps), np.nan), where=gaps > 0)
    latencies = {"ttft_s": first - arrival, "tpot_s": tpot, "e2e_s": finish - arrival}
    return {**requests, **latencies, "queue_s": floats(requests, "admitted_s") - arrival}


def finished(requests: Columns) -> npt.NDArray[np.bool_]:
    """Which requests got all their tokens."""
    return np.asarray(requests["outcome"] == Outcome.finished.name)


def distribution(values: Floats) -> dict[str, float | None]:
    """Mean, standard deviation, percentiles (linear between order statistics) and maximum of the finite numbers."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return dict.fromkeys(("mean", "std", *(f"p{p}" for p in PERCENTILES), "max"))
    points = np.percentile(values, PERCENTILES).tolist()
    named = dict(zip((f"p{p}" for p in PERCENTILES), points, strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), **named, "max": float(values.max())}


def slo_terms(slo: Slo) -> dict[str, float]:
    """The limits that are set, by the column they hold for."""
    limits = {"ttft_s": slo.ttft, "tpot_s": slo.tpot, "e2e_s": slo.e2e}
    return {name: limit for name, limit in limits.items() if limit is not None}


def meets(requests: Columns, terms: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Which requests finished within every limit; a single output token has no TPOT to miss."""
    good = finished(requests)
    for name, limit in terms.items():
        good &= ~(floats(requests, name) > limit)
    return good


def good(requests: Columns, slo: Slo) -> npt.NDArray[np.bool_]:
    """Which requests meet the SLO, each that of its own priority."""
    if not slo.classes:
        return meets(requests, slo_terms(slo))
    priority = whole(requests, "priority")
    found = np.zeros(len(priority), np.bool_)
    for one in np.unique(priority).tolist():
        found |= (priority == one) & meets(requests, slo_terms(slo.of(one)))
    return found


def slo_result(requests: Columns, slo: Slo) -> dict[str, object] | None:
    """Attainment of the SLO as a whole and by term, over all requests; None where no term is set or nobody
    came. Terms are those that hold for requests without a class of their own.
    """
    terms = slo_terms(slo)
    count = len(requests["outcome"])
    if (not terms and not slo.classes) or count == 0:
        return None
    attained = float(good(requests, slo).mean())
    by_term = {
        name: {"limit": limit, "attainment": float(meets(requests, {name: limit}).mean())}
        for name, limit in terms.items()
    }
    met = attained >= slo.percentile / 100.0
    return {"met": met, "attainment": attained, "percentile": slo.percentile, "terms": by_term}
