"""The summary of a simulated run: the figures of the contract, each of them described in `attributes.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsesim.metrics.columns import floats, whole
from sparsesim.metrics.energy import Idle, energy_by_component, idle
from sparsesim.metrics.latency import distribution, finished, good, slo_result, with_latencies
from sparsesim.metrics.stats import LEVEL, batch_means
from sparsesim.metrics.tokens import token_gaps
from sparsesim.metrics.window import Window
from sparsesim.scenario import Slo
from sparsesim.sim.records import Columns, Records
from sparsesim.sim.request import Outcome

LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "queue_s")


def summarise(records: Records, slo: Slo | None = None, warm_up_s: float = 0.0) -> dict[str, Any]:
    """Figures of one run after the warm-up.

    Requests count when they arrive at or after `warm_up_s`; tokens, time and energy count when they fall
    after it. Figures that nothing was measured for are None.
    """
    slo = slo or Slo()
    window = Window(min(warm_up_s, records.end_s), records.end_s)
    requests = measured(records, warm_up_s)
    done = finished(requests)
    between = idle(records)
    summary: dict[str, Any] = {
        "requests": {"completed": int(done.sum()), "failed": int((~done).sum())},
        "outcomes": {o.name: n for o in Outcome if (n := int((requests["outcome"] == o.name).sum()))},
        **{name: distribution(floats(requests, name)[done]) for name in LATENCIES},
        "itl_s": token_gaps(records, warm_up_s).distribution(),
        "slo": slo_result(requests, slo),
        **_by_priority(requests, slo),
        "duration_s": window.length_s,
        **_rates(records, requests, slo, window),
        **_load(records, window),
        **_energy(records, window, between),
        "intervals": chance(requests, done),
    }
    return summary


def measured(records: Records, warm_up_s: float) -> Columns:
    """The requests that arrived after the warm-up and before the run ended (or was interrupted), with latencies."""
    arrival = floats(records.requests, "arrival_s")
    kept = (arrival >= warm_up_s) & (arrival <= records.end_s)
    return with_latencies({name: column[kept] for name, column in records.requests.items()})


def _by_priority(requests: Columns, slo: Slo) -> dict[str, Any]:
    """The requests' figures of each priority, where there are several (SLO classes)."""
    priority = whole(requests, "priority")
    classes = np.unique(priority).tolist()
    if len(classes) < 2:
        return {}
    found = {}
    for one in classes:
        own = {name: column[priority == one] for name, column in requests.items()}
        done = finished(own)
        counts = {"completed": int(done.sum()), "failed": int((~done).sum())}
        latencies = {name: distribution(floats(own, name)[done]) for name in LATENCIES}
        found[str(one)] = {"requests": counts, **latencies, "slo": slo_result(own, slo.of(one))}
    return {"by_priority": found}


def _per(amount: float, length: float) -> float | None:
    return amount / length if length > 0 else None


def _rates(records: Records, requests: Columns, slo: Slo, window: Window) -> dict[str, float | None]:
    steps = records.steps
    shares = window.shares(floats(steps, "start_s"), floats(steps, "end_s"))
    output, prompt = (float(shares @ floats(steps, name)) for name in ("output_tok", "prefill_tok"))
    return {
        "requests_per_s": _per(float(finished(requests).sum()), window.length_s),
        "output_tok_per_s": _per(output, window.length_s),
        "total_tok_per_s": _per(output + prompt, window.length_s),
        "goodput_per_s": _per(float(good(requests, slo).sum()), window.length_s),
    }


def _load(records: Records, window: Window) -> dict[str, Any]:
    steps, replicas = records.steps, records.replicas
    start, end = floats(steps, "start_s"), floats(steps, "end_s")
    busy = window.shares(start, end) * (end - start)
    up = float(np.sum(_within(replicas, window)))
    capacity = {int(r): float(b) for r, b in zip(replicas["replica"], replicas["kv_blocks"], strict=True)}
    of_row = np.array([capacity[int(r)] for r in steps["replica"]])
    use = np.divide(steps["kv_blocks"], of_row, out=np.zeros(len(of_row)), where=of_row > 0)
    prompts = float(records.requests["prompt_tok"][finished(records.requests)].sum())
    return {
        "utilisation": _per(float(busy.sum()), up),
        "running": _per(float(busy @ floats(steps, "running")), up),
        "waiting": _per(float(busy @ floats(steps, "waiting")), up),
        "kv_blocks": int(replicas["kv_blocks"][0]) if len(replicas["kv_blocks"]) else None,
        "kv_use": {
            "blocks": int(sum(capacity.values())),
            "mean": _per(float(busy @ use), up),
            "max": float(use.max(initial=0.0)),
        },
        "preemptions": int(records.requests["preemptions"].sum()),
        "cached_share": _per(float(records.requests["cached_tok"][finished(records.requests)].sum()), prompts),
    }


def _within(replicas: Columns, window: Window) -> Any:
    up, down = floats(replicas, "up_s"), floats(replicas, "down_s")
    return np.clip(np.minimum(down, window.end_s) - np.maximum(up, window.start_s), 0.0, None)


def _energy(records: Records, window: Window, between: Idle) -> dict[str, Any]:
    steps = records.steps
    by_component = energy_by_component(records, window, between)
    total = math.fsum(by_component.values())
    shares = window.shares(floats(steps, "start_s"), floats(steps, "end_s"))
    return {
        "energy_j": total,
        "energy_by_component_j": by_component,
        "j_per_output_tok": _per(total, float(shares @ floats(steps, "output_tok"))),
        "power_w": _per(total, window.length_s),
        "scope": "gpu",
    }


def chance(requests: Columns, done: Any) -> dict[str, dict[str, Any]]:
    """Intervals of the mean latencies of one run, by batch means in order of arrival."""
    found = {}
    for name in LATENCIES:
        interval = batch_means(floats(requests, name)[done])
        if interval is not None:
            low, high = interval
            found[f"{name}.mean"] = {"low": low, "high": high, "level": LEVEL, "source": "batch means of one run"}
    return found
