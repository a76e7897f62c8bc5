"""What is wrong is said with its place and what would be accepted, exits 2 or 3, and writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sparsesim.cost.predict import read_ops
from tests.cli.conftest import Call

FAULTY = """\
model: qwen3-31b
deployment:
  hardwear: h100-sxm
  hardware: h100-sxn
  tp: 0
workload:
  arrivals: {kind: poison, rate: 3 /s}
  lengths: {kind: lognormal, prompt: {mean: 800, cv: 0.9}, output: {mean: 200 kg, cv: 0.9}}
  requests: 10
slo: {tpot: 50, ttfd: 5 ms}
simulation: {warm_up: -1 s}
"""


def test_all_problems_come_at_once_each_with_its_place_and_what_would_be_accepted(scenario: Path, call: Call) -> None:
    scenario.write_text(FAULTY)
    result = call("run", "small.yaml")
    assert result.exit_code == 2
    said = result.stderr
    for line in (
        "small.yaml:1:8: model: unknown model 'qwen3-31b' (did you mean qwen3-32b",
        "small.yaml:3:13: deployment.hardwear: unknown key 'hardwear' (did you mean hardware?)",
        "small.yaml:4:13: deployment.hardware: unknown hardware 'h100-sxn' (did you mean h100-sxm",
        "small.yaml:5:7: deployment.tp: 0: Input should be greater than or equal to 1",
        "small.yaml:7:13: workload.arrivals: unknown kind 'poison'; did you mean poisson?",
        "small.yaml:8:45: workload.lengths.prompt.mean: 800 has no unit; write a tokens such as '800 tok'",
        "small.yaml:8:75: workload.lengths.output.mean: 'kg' in '200 kg' is not a unit of tokens",
        "small.yaml:10:13: slo.tpot: 50 has no unit; write a time such as '500 ms'",
        "small.yaml:10:23: slo.ttfd: unknown key 'ttfd' (did you mean ttft",
        "small.yaml:11:23: simulation.warm_up: -1.0: Input should be greater than or equal to 0",
    ):
        assert line in said
    assert len(said.splitlines()) == 10
    assert [path.name for path in scenario.parent.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("workload.arrivals.rate=-1 /s", 2, "workload.arrivals.rate: '-1 /s': Input should be greater than 0"),
        ("deployment.tp=3", 2, "deployment.tp: tp 3 does not divide the 32 attention heads (it may be 1, 2, 4, 8"),
        ("deployment.ep=2", 2, "--set deployment.ep=2: deployment.ep: ep 2 does not divide tp*dp = 1"),
        ("deployment.pp=100", 2, "--set deployment.pp=100: deployment.pp: pp 100 is more than the 36 layers"),
        ("workload.requests=0", 2, "workload.requests: 0: Input should be greater than 0"),
        ("deployment.engine=vlm", 2, "unknown engine 'vlm' (did you mean vllm"),
        ("deployment.topology=ring", 2, "unknown topology 'ring' (did you mean ring-8?)"),
        ("precision.weights=fp3", 2, "unknown dtype 'fp3'"),
        ("sparsity={density: 0.1}", 2, "sparsity: expected a mapping with 'kind', one of: constant"),
        ("power.cap=5 kW", 2, "power.cap: h100-sxm does not work at 5000 W (above 122 W"),
        ("power.cap=20 W", 2, "power.cap: h100-sxm does not work at 20 W"),
        ("a.b=1", 2, "a: unknown key 'a' (one of: densities, deployment"),
        ("rate", 2, "--set: 'rate' is not of the form path.to.key=value"),
        ("workload.arrivals={kind: trace, file: none.csv}", 2, "no file 'none.csv'"),
        ("deployment.memory.utilisation=0.2", 3, "it would fit with tp 2"),
        ("model=llama-3.1-405b", 3, "it would fit with tp 16"),
    ],
)
def test_each_names_the_place_the_value_and_what_would_be_accepted(
    scenario: Path, call: Call, setting: str, code: int, said: str
) -> None:
    result = call("run", "small.yaml", "--set", setting, "--format", "json")
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert [path.name for path in scenario.parent.iterdir()] == ["small.yaml"]


def test_what_does_not_fit_counts_its_bytes(scenario: Path, call: Call) -> None:
    said = call("estimate", "small.yaml", "--set", "model=llama-3.1-405b").stderr
    assert "weights of the fullest device 755.96 GiB" in said  # 405,853,388,800 parameters, norms included, at 2 bytes
    assert "usable                        71.68 GiB of 79.65 GiB" in said  # 81,559 MiB, nine tenths of it


def test_a_malformed_trace_says_every_line(scenario: Path, call: Call) -> None:
    trace = scenario.parent / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46,100,20\n"
        "2023-11-16 18:15:47,abc,20\n"
        "2023-11-16 18:15:48,100\n"
    )
    result = call("run", "small.yaml", "--set", "workload={arrivals: {kind: trace, file: trace.csv}}")
    assert result.exit_code == 2
    assert f"{trace}:3: ContextTokens is 'abc', not a whole number of tokens" in result.stderr
    assert f"{trace}:4: has 2 columns, not 3" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "quickstrat"], "unknown scenario 'quickstrat' (did you mean quickstart?)"),
        (["run", "quickstrat.yaml"], "unknown scenario 'quickstrat.yaml': no such file (did you mean quickstart?)"),
        (["run", "none/of/it"], "unknown scenario 'none/of/it': no such file\n"),
        (["run", "empty.yaml"], "empty.yaml: workload: missing"),
        (["estimate"], "name a scenario, or both --model and --hardware"),
        (["estimate", "small.yaml", "--model", "m"], "--model: is read only without a scenario (--set model=m)"),
        (["estimate", "small.yaml", "--tp", "1"], "--tp: is read only without a scenario (--set deployment.tp=1)"),
        (["estimate", "small.yaml", "--phase", "decode", "--context", "99"], "(--set 'workload.context=99 tok')"),
        (["estimate", "--model", "qwen3-8b", "--hardware", "h100-sxm", "--phase", "foo"], "'--phase'"),
        (["profiles", "show", "h100"], "unknown hardware 'h100' (did you mean"),
        (["models", "show", "config.json"], "config.json:1:2: model_type: model_type 'foo' is not understood"),
        (["schema", "scenarios"], "unknown schema 'scenarios' (scenario or ops)"),
        (["schema", "scenario", "--format", "csv"], "--format: csv: the scenario's schema is JSON"),
        (["validate"], "neither a table nor --suite is given (either a CSV of measured ops, or one --suite of: publ"),
        (["validate", "ops.csv", "--suite", "ranks"], "a table and --suite are given"),
        (["validate", "--suite", "nope"], "error: --suite: unknown suite 'nope' (one of: published, ranks)\n"),
        (["sweep", "small.yaml"], "small.yaml:1:1: study: the scenario has no study (--set 'study={kind: sweep, axes"),
        (["plan", "small.yaml", "--out", "config.json"], "is a file"),
        (
            ["plan", "small.yaml", "--set", "study={kind: plan, options: {finalists: 1}}", "--out", "config.json/x"],
            "Not a directory",
        ),
        (["nothing"], "No such command 'nothing'"),
        (["run"], "Missing argument"),
    ],
)
def test_commands_refuse_what_they_cannot_do(scenario: Path, call: Call, words: list[str], said: str) -> None:
    (scenario.parent / "config.json").write_text('{"model_type": "foo"}')
    (scenario.parent / "empty.yaml").touch()
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_is_not_written_over_what_is_no_run(scenario: Path, call: Call) -> None:
    notes = scenario.parent / "kept" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    result = call("run", "small.yaml", "--out", "kept", "--quiet")
    assert result.exit_code == 2
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]
    assert notes.read_text() == "mine"


def test_a_warm_up_beyond_the_last_request_is_refused_with_the_longest_that_measures(
    scenario: Path, call: Call
) -> None:
    refused = call("run", "small.yaml", "--set", "simulation.warm_up=1000 s")
    assert refused.exit_code == 2
    said = re.search(
        r"simulation\.warm_up: 1000 s leaves nothing to measure: the run took [\d.]+ s .* \(at most ([\d.]+) s\)",
        refused.stderr,
    )
    assert said
    longest = call("run", "small.yaml", "--set", f"simulation.warm_up={said[1]} s", "--format", "json")
    assert json.loads(longest.stdout)["requests"]["completed"] == 1


HEADER = "op,m,n,k,dtype"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("op,m,n,k,dtyp\ngemm,1,2,3,bf16\n", ["ops.csv: unknown column 'dtyp' (did you mean dtype"]),
        (f"{HEADER},m\ngemm,1,2,3,bf16,4\n", ["ops.csv: column 'm' stands twice"]),
        (f"# who\n{HEADER}\n\ngemm,1,2,3,4,bf16\n", ["ops.csv:4: has 6 cells, the header 5"]),
        (f"{HEADER}\ngemm,1,2,3\n", ["ops.csv:2: has 4 cells, the header 5"]),
        (f"{HEADER}\n", ["ops.csv: holds no rows"]),
        (
            f"# who\n{HEADER}\ngemm,1,-2,3,bf16\ngemm,many,2,3,bf16\n",
            [
                "ops.csv:3: uncovered: n is '-2', not a number above zero",
                "ops.csv:4: uncovered: m is 'many', not a number above zero",
            ],
        ),
    ],
)
def test_a_table_of_ops_that_cannot_be_answered_says_where(
    scenario: Path, call: Call, text: str, said: list[str]
) -> None:
    (scenario.parent / "ops.csv").write_text(text)
    result = call("predict", "ops.csv", "--hardware", "h100-sxm")
    assert result.exit_code == 2
    lines = result.stderr.removeprefix("error: ").splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_lines_without_an_answer_are_named_beside_those_that_have_one(scenario: Path, call: Call) -> None:
    rows = "".join(f"gemm,1,{-n},3,bf16\n" for n in range(1, 13))
    (scenario.parent / "ops.csv").write_text(f"{HEADER}\ngemm,1,2,3,bf16\n{rows}")
    result = call("predict", "ops.csv", "--hardware", "h100-sxm")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 14
    first, *_, last = result.stderr.splitlines()
    assert first == "note: ops.csv:3: uncovered: n is '-1', not a number above zero"
    assert last == "note: and 2 more lines"


def measured_tables() -> list[Path]:
    every = (Path(__file__).parents[2] / "calibration" / "data").rglob("*.csv")
    headers = {path: next(line for line in path.open() if not line.startswith("#")).split(",") for path in every}
    return sorted(path for path, header in headers.items() if {"op", "measured_time_s"} <= set(header))


@pytest.mark.parametrize("table", measured_tables(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_measured_tables_carry_beside_ops_is_accepted(table: Path) -> None:
    assert len(read_ops(table)) > 0


def test_calibrate_without_a_gpu_says_what_is_missing(
    scenario: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert call("calibrate", "--suite", "gemm", "--out", "rows").exit_code == 2
    said = capfd.readouterr().err
    assert "error: --device: torch" in said
    assert "sees no CUDA device (--device cpu tries suites on the host)" in said
    assert "Traceback" not in said


def test_calibrate_without_its_packages_names_them(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "triton") else object())
    refused = call("calibrate", "--suite", "gemm", "--out", "rows")
    assert refused.exit_code == 2
    assert refused.stderr == "error: measuring kernels needs torch and triton (pip install 'sparsesim[gpu]')\n"
