"""A simulated run leaves as vLLM's benchmark would write it, and stands beside a measured one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsesim.cli import main

SMALL = """
model: llama-3.1-8b
deployment: {hardware: h100-sxm}
workload:
  arrivals: {kind: poisson, rate: 10 /s}
  lengths: {kind: fixed, prompt: 512 tok, output: 32 tok}
  requests: 50
"""


def told(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["sparsesim", *words])
    try:
        main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    said = capsys.readouterr()
    return code, said.out if code == 0 else said.err


def test_a_run_exported_stands_beside_its_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["run", "small.yaml", "--quiet", "--export", "vllm=measured.json", "--export", "perfetto=trace.json"]
    assert told(words, monkeypatch, capsys)[0] == 0
    result = json.loads((tmp_path / "measured.json").read_text())
    assert result["completed"] == 50
    assert result["total_output_tokens"] == 50 * 32
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    code, out = told(["compare", "measured.json", "small.yaml", "--format", "json"], monkeypatch, capsys)
    assert code == 0
    measured, simulated = (case["summary"] for case in json.loads(out)["cases"])
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert measured[name]["mean"] == pytest.approx(simulated[name]["mean"], rel=1e-6)


def test_an_unknown_export_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    code, said = told(["run", "small.yaml", "--export", "trtllm=out.json"], monkeypatch, capsys)
    assert code == 2
    assert "vllm=FILE or perfetto=FILE" in said
    assert not (tmp_path / "runs").exists()
