"""Finished runs and a measured server side by side on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sparsesim.run import Run


def test_run_folders_and_a_benchmarks_json_are_compared(run: Run, replicated: Run, tmp_path: Path) -> None:
    run.write(tmp_path / "one")
    replicated.write(tmp_path / "three")
    (tmp_path / "server.json").write_text(json.dumps(run.to_vllm()))
    start = "from sparsesim.cli import main; main()"
    command = [sys.executable, "-c", start, "compare", "one", "three", "server.json", "--out", "both"]
    done = subprocess.run([*command, "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    told, kept = json.loads(done.stdout), json.loads((tmp_path / "both" / "summary.json").read_text())
    for summary in (told, kept):
        assert [case["name"] for case in summary["cases"]] == ["one", "three", "server"]
    assert kept["cases"][2]["summary"]["ttft_s"]["p99"] == run.summary["ttft_s"]["p99"]
    assert (tmp_path / "both" / "report.html").is_file()
