"""A small scenario, and the command line called in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sparsesim.cli import app

SCENARIO = """\
title: Does a small one run?
model: qwen3-8b
deployment: {hardware: h100-sxm}
workload:
  arrivals: {kind: poisson, rate: 4 /s}
  lengths: {kind: fixed, prompt: 200 tok, output: 20 tok}
  requests: 100
slo: {ttft: 1 s, tpot: 50 ms}
"""

Call = Callable[..., Result]


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`small.yaml` in an empty folder, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def call() -> Call:
    """`call("run", "small.yaml")` answers with exit code, stdout and stderr."""
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])
