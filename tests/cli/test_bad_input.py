"""What is wrong is said with its place and what would be accepted, exits 2 or 3, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        ("deployment.ep=2", 2, "ep 2 does not divide tp*dp = 1"),
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
        (["estimate"], "name a scenario, or both --model and --hardware"),
        (["estimate", "small.yaml", "--model", "qwen3-8b"], "give a scenario, or --model and --hardware, not both"),
        (["profiles", "show", "h100"], "unknown hardware 'h100' (did you mean"),
        (["models", "show", "config.json"], "config.json:1:2: model_type: model_type 'foo' is not understood"),
        (["schema", "scenarios"], "unknown schema 'scenarios' (scenario or ops)"),
        (["validate"], "name a table of measured ops"),
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
