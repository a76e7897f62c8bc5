"""Runs in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparsesim.errors import InputError
from sparsesim.metrics import summarise
from sparsesim.metrics.latency import with_latencies
from sparsesim.metrics.perfetto import write_perfetto
from sparsesim.metrics.vllm import from_vllm, to_vllm
from sparsesim.scenario import Slo
from sparsesim.sim.records import Records

FIELDS = (
    "duration completed failed total_input_tokens total_output_tokens request_throughput request_goodput "
    "output_throughput total_token_throughput input_lens output_lens ttfts itls latencies start_times"
)
MEASURED = {
    "duration": 10.0,
    "start_times": [100.0, 101.0, 102.0],
    "input_lens": [10, 20, 30],
    "output_lens": [3, 1, 0],
    "ttfts": [0.5, 0.25, 0.0],
    "itls": [[0.1, 0.3], [], []],
}


def test_a_run_reads_back_from_vllms_json_with_its_figures(calm: Records, tmp_path: Path) -> None:
    slo = Slo.model_validate({"ttft": "30 ms", "tpot": "6 ms"})
    summary = summarise(calm, slo)
    result = to_vllm(summary, with_latencies(calm.requests))
    assert set(result) >= {*FIELDS.split(), "mean_ttft_ms", "median_tpot_ms", "std_itl_ms", "p99_e2el_ms"}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    again, requests = from_vllm(path, slo)
    assert len(requests["request"]) == 400
    assert result["std_ttft_ms"] == pytest.approx(1e3 * with_latencies(calm.requests)["ttft_s"].std())
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert again[name]["p99"] == pytest.approx(summary[name]["p99"])
    for name in ("goodput_per_s", "output_tok_per_s", "total_tok_per_s", "requests_per_s"):
        assert again[name] == pytest.approx(summary[name])
    assert again["slo"]["attainment"] == pytest.approx(summary["slo"]["attainment"])


def test_a_measured_result_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(MEASURED))
    summary, requests = from_vllm(path)
    assert summary["requests"] == {"completed": 2, "failed": 1}
    assert requests["finish_s"][0] == pytest.approx(0.9)
    assert summary["tpot_s"]["mean"] == pytest.approx(0.2)
    assert summary["itl_s"]["max"] == pytest.approx(0.3)
    assert summary["output_tok_per_s"] == pytest.approx(0.4)


def test_a_result_of_an_older_version_has_no_start_times(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({name: value for name, value in MEASURED.items() if name != "start_times"}))
    summary, requests = from_vllm(path)
    assert list(requests["arrival_s"]) == [0.0, 0.0, 0.0]
    assert summary["ttft_s"]["mean"] == pytest.approx(0.375)


def test_a_result_without_details_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({name: value for name, value in MEASURED.items() if name not in ("ttfts", "itls")}))
    with pytest.raises(InputError, match="save-detailed") as caught:
        from_vllm(path)
    assert len(caught.value.problems) == 2


def test_a_chrome_trace_covers_every_step_and_closes_every_span(calm: Records, tmp_path: Path) -> None:
    tables = {"steps": calm.steps, "requests": calm.requests, "events": calm.events}
    trace = json.loads(write_perfetto(tables, tmp_path / "trace.json").read_text())["traceEvents"]
    steps = [event for event in trace if event["ph"] == "X"]
    assert len(steps) == len(calm.steps["start_s"])
    assert sum(event["dur"] for event in steps) / 1e6 == pytest.approx(
        float(np.sum(calm.steps["end_s"] - calm.steps["start_s"]))
    )
    opened = [(event["id"], event["name"]) for event in trace if event["ph"] == "b"]
    closed = [(event["id"], event["name"]) for event in trace if event["ph"] == "e"]
    assert sorted(opened) == sorted(closed)
    assert len([name for _, name in opened if name.startswith("request")]) == 400
    assert {event["args"]["name"] for event in trace if event["ph"] == "M"} == {"replica 0", "replica 1", "requests"}
