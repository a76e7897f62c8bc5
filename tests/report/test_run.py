"""Runs in folders: whole or not at all, and the same when read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sparsesim.errors import InputError
from sparsesim.metrics.attributes import attributes
from sparsesim.metrics.economy import economy
from sparsesim.report.write import write_report
from sparsesim.run import Run, measured
from sparsesim.scenario import Power, Scenario


def test_a_run_reads_back_as_it_was_written(run: Run, tmp_path: Path) -> None:
    again = Run.load(run.write(tmp_path / "r"))
    assert (again.kind, again.title, again.partial) == (run.kind, run.title, False)
    assert again.summary == json.loads(run.to_json())
    assert set(again.tables) == set(run.tables)
    for name, columns in run.tables.items():
        for column, values in columns.items():
            assert np.array_equal(again.tables[name][column], values, equal_nan=values.dtype.kind == "f"), column
    assert again.manifest["scenario"]["model"] == "qwen3-8b"
    assert again.manifest["versions"]["sparsesim"]


def test_tables_have_the_columns_that_are_described(run: Run) -> None:
    for name, columns in run.tables.items():
        assert set(columns) == set(attributes(name))  # type: ignore[arg-type]


def test_a_frame_is_the_table(run: Run) -> None:
    frame = run.frame("requests")
    assert len(frame) == run.summary["requests"]["completed"]
    assert frame["ttft_s"].mean() == pytest.approx(run.summary["ttft_s"]["mean"])
    with pytest.raises(InputError, match="one of: requests"):
        run.frame("nothing")


def test_the_power_table_integrates_to_the_energy(run: Run) -> None:
    power = run.frame("power")
    assert float((power.total_w * (power.end_s - power.start_s)).sum()) == pytest.approx(run.summary["energy_j"])


def test_json_has_no_nan(run: Run) -> None:
    odd = Run("estimate", "x", {"a": math.nan, "b": [math.inf, np.float64(1)], "c": np.int64(3)}, {}, {})
    assert json.loads(odd.to_json()) == {"a": None, "b": [None, 1.0], "c": 3}


def test_an_earlier_run_is_replaced_and_anything_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    first = run.write(tmp_path / "r")
    (first / "report.html").write_text("old")
    run.titled("second").write(tmp_path / "r")
    assert Run.load(first).title == "second"
    assert not (first / "report.html").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else than a run"):
        run.write(other)
    assert [path.name for path in other.iterdir()] == ["chapter1.tex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "thesis"]


def test_a_failed_write_leaves_what_was_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write(tmp_path / "r")
    broken = Run(run.kind, "broken", {"a": object()}, {}, {})
    with pytest.raises(TypeError):
        broken.write(tmp_path / "r")
    assert Run.load(tmp_path / "r").title == run.title
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("manifest.json", None, "cannot be read"),
        ("summary.json", "{", "not JSON"),
        ("steps.parquet", "x", "cannot be read"),
    ],
)
def test_a_broken_run_is_named(run: Run, tmp_path: Path, file: str, text: str | None, words: str) -> None:
    path = run.write(tmp_path / "r") / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        Run.load(tmp_path / "r")
    assert file in str(caught.value)


def test_a_measured_server_stands_beside_the_simulation(run: Run, scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps(run.to_vllm()))
    server = measured(path, scenario.slo)
    assert (server.kind, server.title) == ("measurement", "server")
    assert server.summary["ttft_s"]["p99"] == pytest.approx(run.summary["ttft_s"]["p99"])
    text = write_report([run, server], tmp_path / "both", "As measured?").read_text()
    assert "Nearly the same for all: goodput" in text
    again = Run.load(server.write(tmp_path / "server"))
    assert again.kind == "measurement"


def test_a_chrome_trace_of_a_run_read_back(replicated: Run, tmp_path: Path) -> None:
    again = Run.load(replicated.write(tmp_path / "r"))
    trace = json.loads(again.write_perfetto(tmp_path / "trace.json", replication=2).read_text())
    steps = replicated.tables["steps"]
    assert sum(event["ph"] == "X" for event in trace["traceEvents"]) == (steps["replication"] == 2).sum()


def test_replications_are_averaged_with_intervals(replicated: Run) -> None:
    requests = replicated.frame("requests")
    means = requests.groupby("replication").ttft_s.mean()
    assert len(means) == 3
    assert replicated.summary["ttft_s"]["mean"] == pytest.approx(means.mean())
    interval = replicated.summary["intervals"]["ttft_s.mean"]
    assert interval["low"] < means.mean() < interval["high"]
    assert interval["source"] == "3 replications"


def test_node_facility_carbon_and_money_are_apart(run: Run) -> None:
    found, seconds = run.summary["economy"], run.summary["duration_s"]
    node = run.summary["energy_j"] + 2 * 350 * seconds
    assert found["node_energy_j"] == pytest.approx(node)
    assert found["facility_energy_j"] == pytest.approx(1.2 * node)
    assert found["carbon_g"] == pytest.approx(1.2 * node / 3.6e6 * 300)
    assert found["cost"] == pytest.approx(2 * 2.5 * seconds / 3600)
    tokens = run.summary["output_tok_per_s"] * seconds
    assert found["cost_per_mtok"] == pytest.approx(found["cost"] / tokens * 1e6)


def test_without_a_node_share_there_is_no_node_figure() -> None:
    summary = {"duration_s": 2.0, "energy_j": 10.0, "output_tok_per_s": 1.0, "tok_per_s": 5.0}
    assert economy(summary, Power(), 1, 0.0) == {}
    priced = economy(summary, Power.model_validate({"price": "3.6 USD/h"}), 4, 0.0)
    assert priced == {"cost": pytest.approx(4 * 2 * 1e-3), "cost_per_mtok": pytest.approx(4 * 2 * 1e-3 * 1e6 / 10)}
