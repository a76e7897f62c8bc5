"""Help and errors of usage load nothing heavy, so that they come at once; `benchmarks/startup.py` times them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "matplotlib", "pandas", "numpy", "scipy", "simpy", "pyarrow", "networkx")
ASK = """
import sys
from sparsesim.cli import main
sys.argv = ["sparsesim", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["estimate", "--help"], ["nothing"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, *words], capture_output=True, text=True, check=True)
    loaded = done.stderr.rpartition("loaded:")[2].split()
    assert "sparsesim" in loaded
    assert not set(HEAVY) & set(loaded)


def test_estimating_loads_neither_torch_nor_matplotlib() -> None:
    words = ["estimate", "--model", "qwen3-8b", "--hardware", "h100-sxm"]
    done = subprocess.run([sys.executable, "-c", ASK, *words], capture_output=True, text=True, check=True)
    assert not {"torch", "triton", "matplotlib"} & set(done.stderr.rpartition("loaded:")[2].split())
