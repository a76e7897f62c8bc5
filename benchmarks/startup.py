"""Seconds until `sparsesim --help` and a closed-form answer stand on the terminal, start of Python included."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

REPEATS = 7
COMMANDS = {
    "python": ["-c", "pass"],
    "help": ["-m", "sparsesim", "--help"],
    "run_help": ["-m", "sparsesim", "run", "--help"],
    "estimate": ["-m", "sparsesim", "estimate", "--model", "qwen3-8b", "--hardware", "h100-sxm"],
}


def seconds(arguments: list[str]) -> float:
    """The median of several starts."""
    taken = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def main() -> None:
    """Print the seconds of each command as JSON."""
    print(json.dumps({f"{name}_s": round(seconds(arguments), 3) for name, arguments in COMMANDS.items()}, indent=2))


if __name__ == "__main__":
    main()
