"""What commands answer, where they write it, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparsesim import Run, Scenario, estimate
from sparsesim.errors import InputError
from tests.cli.conftest import Call

WALL = ("wall_s", "requests_per_wall_s")


def test_json_is_the_summary_alone_and_the_folder_holds_it_too(scenario: Path, call: Call) -> None:
    result = call("run", "small.yaml", "--format", "json", "--out", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    summary = json.loads(result.stdout)
    assert summary["requests"] == {"completed": 100, "failed": 0}
    assert summary == json.loads(Path("out/summary.json").read_text()) == Run.load("out").summary
    for name in ("manifest.json", "requests.parquet", "steps.parquet", "ops.parquet", "power.parquet", "report.html"):
        assert (Path("out") / name).stat().st_size > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(scenario: Path, call: Call) -> None:
    def figures(*words: str) -> str:
        summary = json.loads(call("run", "small.yaml", "--format", "json", "--out", "out", *words).stdout)
        return json.dumps({key: value for key, value in summary.items() if key not in WALL})

    tables = Path("out/requests.parquet")
    first, rows = figures("--seed", "7"), None
    rows = tables.read_bytes()
    assert figures("--seed", "7") == first
    assert tables.read_bytes() == rows
    assert figures("--seed", "8") != first


def test_a_scenario_in_python_is_the_one_of_the_command(scenario: Path, call: Call) -> None:
    answered = json.loads(call("estimate", "small.yaml", "--set", "deployment.tp=2", "--format", "json").stdout)
    own = estimate(Scenario.load("small.yaml", ["deployment.tp=2"]))
    assert answered["tpot_s"]["mean"] == own.summary["tpot_s"]["mean"]


def test_estimate_answers_without_a_scenario(call: Call) -> None:
    words = [
        "--model",
        "qwen3-30b-a3b",
        "--hardware",
        "h100-sxm",
        "--tp",
        "2",
        "--batch",
        "64",
        "--context",
        "4096",
        "--format",
        "json",
    ]
    summary = json.loads(call("estimate", *words).stdout)
    assert summary["tok_per_s"] == pytest.approx(64 / summary["step_s"])
    kv_bytes = 64 * 4096 * 98_304 / 2  # on each device: 64 sequences, 98,304 B of KV a token (48 layers, 4 KV heads)
    assert summary["step_s"] > kv_bytes / 3.35e12  # the datasheet's bandwidth of an H100


def test_a_step_beyond_the_deployment_says_so(call: Call) -> None:
    deployment = ("--model", "qwen3-8b", "--hardware", "h100-sxm", "--batch", 2, "--context", 1_000_000)
    said = call("estimate", *deployment).stderr
    needed = "it needs 125,000 KV blocks, the replica holds"  # 2e6 tok / 16 tok
    assert f"assumed: qwen3-8b: the batch fits, which it does not: {needed}" in said
    assert "assumed: qwen3-8b: 1,000,000 tok of context work, beyond the model's 40,960 tok" in said
    assert "beyond" not in call("estimate", *deployment[:4]).stderr


def test_a_missed_slo_is_a_note_unless_it_is_required(scenario: Path, call: Call) -> None:
    words = ("run", "small.yaml", "--set", "slo.tpot=1 ms")
    relaxed, strict = call(*words), call(*words, "--require-slo")
    assert (relaxed.exit_code, strict.exit_code) == (0, 3)
    assert "misses the SLO" in relaxed.stderr
    assert "the SLO is missed by" in strict.stderr


def test_requests_that_were_not_served_are_named(scenario: Path, call: Call) -> None:
    result = call("run", "small.yaml", "--set", "deployment.memory.kv_blocks=1")
    assert "100 rejected too large" in result.stderr


def test_compare_puts_a_row_for_each_figure(scenario: Path, call: Call) -> None:
    other = scenario.with_name("two.yaml")
    other.write_text("extends: small.yaml\ndeployment: {tp: 2}\n")
    rows = list(csv.DictReader(io.StringIO(call("compare", "small.yaml", "two.yaml", "--format", "csv").stdout)))
    tpot = next(row for row in rows if row["figure"] == "tpot_s.mean")
    assert float(tpot["two"]) < float(tpot["small"])


def test_a_studys_folder_is_read_back_case_by_case(scenario: Path, call: Call) -> None:
    def studied(tps: list[int]) -> None:
        axes = f"study={{kind: compare, axes: {{deployment.tp: {tps}}}}}"
        assert call("run", "small.yaml", "--set", axes, "--out", "out", "--quiet").exit_code == 0

    def titles(*words: str) -> list[str]:
        return [case["name"] for case in json.loads(call("compare", *words, "--format", "json").stdout)["cases"]]

    mine = Path("out/case-study/manifest.json")
    mine.parent.mkdir(parents=True)
    mine.write_text("of another")
    studied([4, 2, 1])
    assert titles("out") == ["4", "2", "1"]
    studied([1, 2])
    assert titles("out") == ["1", "2"]  # nothing is left of the earlier study
    assert mine.read_text() == "of another"
    assert titles("out", "out/case-001") == ["out: 1", "out: 2", "case-001"]
    with pytest.raises(InputError, match=r"out: holds the runs of a study's cases.*one of: case-000, case-001"):
        Run.load("out")


def test_calibrate_hands_on_what_measuring_takes(scenario: Path, call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--out", "rows", "--device", "cpu", "--check-only", "--retry-refused")
    assert call("calibrate", "--suite", "smoke", "--suite", "smoke_kernels=soon", *words).exit_code == 2
    assert "--suite smoke_kernels=soon: 'soon' is no number of seconds" in capfd.readouterr().err


def test_profiles_and_models_are_listed_and_shown(scenario: Path, call: Call) -> None:
    assert {"h100-sxm", "b200", "loihi2"} <= {
        row["name"] for row in json.loads(call("profiles", "--format", "json").stdout)
    }
    assert " 300 ns " in call("profiles", "show", "h200-sxm").stdout  # 0.3 us in the file, not 299.99999999999994
    shown = json.loads(call("profiles", "show", "h200-sxm", "--format", "json").stdout)
    assert all(row["source"] for row in shown)
    listed = call("models", "--format", "csv").stdout
    assert "jamba-v0.1,32,51.57 B" in listed  # 32 layers, 52 B published
    assert json.loads(call("models", "show", "mixtral-8x7b", "--format", "json").stdout)["parameters"] == 46_702_792_704
    assert call("profiles", "new", "mine", "--from", "h200-sxm").exit_code == 0
    assert call("run", "small.yaml", "--set", "deployment.hardware=mine", "--quiet").exit_code == 0


def test_cite_names_the_sources_of_model_and_hardware(scenario: Path, call: Call) -> None:
    said = call("cite", "small.yaml").stdout
    assert "Qwen/Qwen3-8B" in " ".join(said.split())
    assert "datasheet" in said


def test_predict_answers_a_table_and_validate_judges_it(scenario: Path, call: Call) -> None:
    table = Path("ops.csv")
    table.write_text("op,m,n,k,dtype,measured_time_s\ngemm,4096,4096,4096,bf16,2.0e-4\ngemm,64,4096,4096,bf16,1.0\n")
    answered = list(csv.DictReader(io.StringIO(call("predict", "ops.csv", "--hardware", "h100-sxm").stdout)))
    assert float(answered[0]["time_s"]) >= 2 * 4096**3 / 989e12  # never faster than the datasheet's peak
    assert float(answered[0]["time_low_s"]) < float(answered[0]["time_s"]) < float(answered[0]["time_high_s"])
    judged = call("validate", "ops.csv", "--hardware", "h100-sxm", "--tolerance", "10")
    assert judged.exit_code == 4  # a second for the small product is far from any prediction
    assert "above 10 %" in judged.stderr


CTRL_C = """
import os, signal, sys
from contextlib import contextmanager
from sparsesim.cli import main, progress

@contextmanager
def pressed(quiet):
    yield lambda name: lambda done, total, seconds: os.kill(os.getpid(), signal.SIGINT)

progress.watched = pressed
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it otherwise
sys.argv = ["sparsesim", *sys.argv[1:]]
main()
"""
"""Ctrl-C at the first report of progress: at a known place, whatever the machine's speed."""


def test_interrupted_runs_keep_what_was_simulated_marked_partial(scenario: Path) -> None:
    words = ["run", "small.yaml", "--set", "workload.requests=50000", "--out", "out", "--format", "json"]
    done = subprocess.run([sys.executable, "-c", CTRL_C, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "marked partial" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["partial"] is True
    run = Run.load("out")
    assert run.partial
    assert 0 < run.summary["requests"]["completed"] < 50_000


def test_ctrl_c_before_anything_was_simulated_leaves_nothing(scenario: Path) -> None:
    begin = "import signal\nfrom sparsesim.cli.common import reported\n"
    begin += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = begin + "with reported():\n    signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
