"""The JSON of vLLM's serving benchmark, out and in: a simulated run beside a measured one.

Field names are those of `vllm bench serve --save-result --save-detailed`; durations of single requests are in seconds,
statistics in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.metrics.columns import floats, whole
from sparsesim.metrics.latency import distribution, finished, meets, slo_result, slo_terms, with_latencies
from sparsesim.scenario import Slo
from sparsesim.sim.records import Columns
from sparsesim.sim.steps import Floats
from sparsesim.workload.traces.vllm import load_result

DETAILS = ("input_lens", "output_lens", "ttfts", "itls")
STATISTICS = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2e_s"}


def to_vllm(summary: Mapping[str, Any], requests: Columns) -> dict[str, Any]:
    """The benchmark's result of a run; requests in order of arrival, those that did not finish with zeros.

    A run keeps the gaps between tokens in closed form, so `itls` holds each request's mean gap as often as it has
    gaps; `*_itl_ms` are those of all gaps.
    """
    done = finished(requests)
    output = np.where(done, whole(requests, "output_tok"), 0)
    ttfts, latencies = (np.where(done, floats(requests, name), 0.0) for name in ("ttft_s", "e2e_s"))
    tpot = np.nan_to_num(floats(requests, "tpot_s"))
    seconds = float(summary["duration_s"])
    return {
        "duration": seconds,
        "completed": int(done.sum()),
        "failed": int((~done).sum()),
        "total_input_tokens": int(whole(requests, "prompt_tok")[done].sum()),
        "total_output_tokens": int(output.sum()),
        "request_throughput": float(done.sum()) / seconds,
        "request_goodput": summary.get("goodput_per_s"),
        "output_throughput": float(output.sum()) / seconds,
        "total_token_throughput": float(output.sum() + whole(requests, "prompt_tok")[done].sum()) / seconds,
        "input_lens": whole(requests, "prompt_tok").tolist(),
        "output_lens": output.tolist(),
        "ttfts": ttfts.tolist(),
        "itls": [[gap] * (n - 1) for gap, n in zip(tpot.tolist(), output.tolist(), strict=True)],
        "latencies": latencies.tolist(),
        "start_times": floats(requests, "arrival_s").tolist(),
        **_statistics(summary),
    }


def _statistics(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """`{mean,median,std,p99}_{ttft,tpot,itl,e2el}_ms`."""
    found: dict[str, float | None] = {}
    for name, key in STATISTICS.items():
        row = summary.get(key) or {}
        for statistic, own in (("mean", "mean"), ("median", "p50"), ("std", "std"), ("p99", "p99")):
            value = row.get(own)
            found[f"{statistic}_{name}_ms"] = None if value is None else 1e3 * value
    return found


def from_vllm(path: Path, slo: Slo | None = None) -> tuple[dict[str, Any], Columns]:
    """Summary and request table of a measured server.

    Raises:
        InputError: no such file, not the benchmark's JSON, or saved without its details.

    """
    if not path.is_file():
        raise InputError(Problem("no such file", place=str(path)))
    result = load_result(path, DETAILS)
    requests = _requests(result)
    done, slo = finished(requests), slo or Slo()
    seconds = float(result.get("duration") or np.nanmax(floats(requests, "finish_s")))
    output = float(whole(requests, "output_tok")[done].sum())
    summary: dict[str, Any] = {
        "requests": {"completed": int(done.sum()), "failed": int((~done).sum())},
        **{key: distribution(floats(requests, key)[done]) for key in ("ttft_s", "tpot_s", "e2e_s")},
        "itl_s": distribution(_gaps(result)),
        "slo": slo_result(requests, slo),
        "duration_s": seconds,
        "requests_per_s": float(done.sum()) / seconds,
        "output_tok_per_s": output / seconds,
        "total_tok_per_s": (output + float(whole(requests, "prompt_tok")[done].sum())) / seconds,
        "goodput_per_s": float(meets(requests, slo_terms(slo)).sum()) / seconds,
        "provenance": {"figures": f"measured, {path.name}"},
    }
    return summary, requests


def _requests(result: Mapping[str, Any]) -> Columns:
    """The request table; older versions save no start times, which then are all 0."""
    start = np.asarray(result.get("start_times", np.zeros(len(result["ttfts"]))), dtype=np.float64)
    arrival = start - start.min(initial=np.inf)
    output = np.asarray(result["output_lens"], dtype=np.int64)
    ttft = np.asarray(result["ttfts"], dtype=np.float64)
    decoding = np.array([float(np.sum(gaps)) for gaps in result["itls"]])
    done = output > 0
    first = np.where(done, arrival + ttft, np.nan)
    columns: Columns = {
        "request": np.arange(len(arrival)),
        "arrival_s": arrival,
        "prompt_tok": np.asarray(result["input_lens"], dtype=np.int64),
        "output_tok": output,
        "admitted_s": np.full(len(arrival), np.nan),
        "first_token_s": first,
        "finish_s": np.where(done, first + decoding, np.nan),
        "generated_tok": output,
        "outcome": np.where(done, "finished", "failed"),
    }
    return with_latencies(columns)


def _gaps(result: Mapping[str, Any]) -> Floats:
    return np.array([gap for gaps in result["itls"] for gap in gaps], dtype=np.float64)
