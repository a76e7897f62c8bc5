"""The commands of studies: their answers, their files and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from sparsesim.cli import app


def asked(values: dict[str, Any], folder: Path, command: str, *words: str, **study: Any) -> Result:
    """Write the scenario and run a command on it, its output in `folder/out`."""
    path = folder / "scenario.yaml"
    path.write_text(
        yaml.safe_dump({**values, **({"study": {"kind": command, **study}} if study else {})}, sort_keys=False)
    )
    return CliRunner().invoke(app, [command, str(path), "--out", str(folder / "out"), "--quiet", *words])


def test_plan_writes_everything_it_promises(values: dict[str, Any], tmp_path: Path) -> None:
    done = asked(values, tmp_path, "plan", "--format", "json", options={"finalists": 2, "devices": 2, "requests": 40})
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["feasible"] is True
    assert summary["cases"][0]["name"] == summary["winner"]
    for name in ("summary.json", "candidates.csv", "winner.yaml", "launch-vllm.sh", "launch-sglang.sh", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_plan_without_an_answer_exits_3_and_still_writes_what_it_knows(values: dict[str, Any], tmp_path: Path) -> None:
    values["slo"] = {"tpot": "0.1 ms"}
    done = asked(values, tmp_path, "plan", options={"finalists": 1, "devices": 1, "requests": 20})
    assert done.exit_code == 3
    assert "nearest feasible" in done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["feasible"] is False


def test_sweep_answers_with_a_row_a_point(values: dict[str, Any], tmp_path: Path) -> None:
    axes = {"workload.arrivals.rate": ["5 /s", "10 /s", "20 /s"]}
    done = asked(values, tmp_path, "sweep", "--format", "csv", "--jobs", "1", axes=axes)
    assert done.exit_code == 0, done.output
    header, *rows = done.stdout.splitlines()
    assert header.startswith("rate,ttft_s.mean")
    assert [row.partition(",")[0] for row in rows] == ["5 /s", "10 /s", "20 /s"]


def test_axes_that_end_alike_have_columns_of_their_own(values: dict[str, Any], tmp_path: Path) -> None:
    pool = {"hardware": "h100-sxm"}
    values["deployment"] = {"pools": {"prefill": pool, "decode": pool}}
    axes = {"deployment.pools.prefill.replicas": [1, 2], "deployment.pools.decode.replicas": [1]}
    done = asked(values, tmp_path, "sweep", "--format", "csv", "--jobs", "1", axes=axes)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("prefill.replicas,decode.replicas,ttft_s.mean")


def test_capacity_prints_the_bound(values: dict[str, Any], tmp_path: Path) -> None:
    values["slo"] = {"ttft": "40 ms", "percentile": 90}
    done = asked(values, tmp_path, "capacity", "--format", "json", options={"precision": 0.2, "replications": 2})
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 0 < found["capacity_low"] <= found["capacity"]
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_sensitivity_names_the_axes(values: dict[str, Any], tmp_path: Path) -> None:
    axes = {"workload.arrivals.rate": ["5 /s", "10 /s"]}
    done = asked(values, tmp_path, "sensitivity", "--jobs", "1", axes=axes)
    assert done.exit_code == 0, done.output
    assert "tpot_s.mean" in done.stdout


@pytest.mark.parametrize(
    ("command", "words", "study", "match"),
    [
        ("sweep", [], {}, "the scenario has no study"),
        ("sweep", ["--backend", "slurm"], {"axes": {"simulation.seed": [1]}}, "is no backend"),
        ("sweep", [], {"axes": {"simulation.sed": [1]}}, "simulation.sed"),
        ("sensitivity", [], {"axes": {}}, "nothing to vary"),
        ("plan", [], {"options": {"finalist": 2}}, "unknown key 'finalist'"),
    ],
)
def test_bad_input_exits_2_and_says_where(
    values: dict[str, Any], tmp_path: Path, command: str, words: list[str], study: dict[str, Any], match: str
) -> None:
    done = asked(values, tmp_path, command, *words, **study)
    assert done.exit_code == 2
    assert match in done.stderr
