"""Command line: measure suites into CSV tables, resumable.

Exit codes: 0 everything measured or out of budget; 1 rows were refused; 2 bad input; 3 the device was lost (run again:
what was measured is kept and the row that broke it is left out).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sparsesim.calibrate.measure import quantities, session
from sparsesim.calibrate.measure.bench import Bench, CpuBench, GpuBench, TimingPlan
from sparsesim.calibrate.measure.quantities import Quantity
from sparsesim.calibrate.measure.runners import prepare
from sparsesim.calibrate.measure.suite import Suite, load
from sparsesim.calibrate.measure.table import Table, column_names
from sparsesim.errors import InputError, Problem, SparsesimError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    options = _parser().parse_args(arguments)
    try:
        return _measure_all(options)
    except SparsesimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparsesim.calibrate.measure", description=__doc__)
    add = parser.add_argument
    add("--suite", action="append", required=True, metavar="NAME[=SECONDS]", help="may repeat; SECONDS: its budget")
    add("--out", type=Path, required=True, metavar="DIR", help="one CSV a suite; existing ones are resumed")
    add("--gpus", type=int, help="ranks of suites over several GPUs; by default as many as the suite says")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try suites on the host, without energy")
    add("--input-gb", type=float, default=24.0, help="random buffers that inputs are carved from")
    add("--output-gb", type=float, default=12.0, help="buffers that outputs are carved from")
    add("--samples", type=int, default=TimingPlan().samples, help="samples a row")
    add("--window-s", type=float, default=TimingPlan().window_s, help="energy window, at least 2 s")
    add("--check-only", action="store_true", help="check results once, time nothing; fills Triton's cache")
    add("--shard", default="0/1", metavar="I/N", help="with --check-only: every N-th row from row I")
    add("--retry-refused", action="store_true", help="measure rows again that were refused before")
    return parser


def _measure_all(options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        hint = "--device cpu tries suites on the host"
        raise InputError(Problem(f"torch {torch.__version__} sees no CUDA device", path="--device", hint=hint))
    asked = [_budget(text) for text in options.suite]
    suites = [load(name, options.gpus) for name, _ in asked]
    budgets = {suite.name: seconds for suite, (_, seconds) in zip(suites, asked, strict=True)}
    options.out.mkdir(parents=True, exist_ok=True)
    here = [suite for suite in suites if suite.gpus == 1]
    worst = 0
    if here:
        kind = GpuBench if options.device == "cuda" else CpuBench
        plan = TimingPlan(samples=options.samples, window_s=options.window_s)
        bare: dict[str, Quantity] = {}
        if options.device == "cuda" and any(suite.quantities for suite in here):
            bare = quantities.before_context()
        bench = kind(plan, options.input_gb, options.output_gb, seed=0)
        for suite in here:
            worst = max(worst, _measure(suite, bench, options, budgets[suite.name], bare))
            if worst == 3:
                return worst
    for suite in suites:
        if suite.gpus > 1:
            from sparsesim.calibrate.measure import ranks

            one = {"device": options.device, "check_only": options.check_only}
            worst = max(worst, ranks.measure(suite, options.out, budgets[suite.name], **one))
    return worst


def _budget(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    try:
        return name, float(seconds) if seconds else float("inf")
    except ValueError:
        raise InputError(Problem(f"{seconds!r} is no number of seconds", f"--suite {text}", hint="NAME=300")) from None


def _check(suite: Suite, bench: Bench, shard: str) -> int:
    first, _, step = shard.partition("/")
    with torch.inference_mode():
        refused = session.check(suite.rows[int(first) :: int(step)], bench, prepare)
    for row, reason in refused:
        print(f"  refused: {session.describe(row)}: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _measure(
    suite: Suite, bench: Bench, options: argparse.Namespace, budget_s: float, bare: Mapping[str, Quantity]
) -> int:
    if suite.quantities:
        quantities.measure(suite, bench, options.out / f"{suite.name}.csv", bare)
        return 0
    if options.check_only:
        return _check(suite, bench, options.shard)
    table = Table(options.out / f"{suite.name}.csv", column_names(suite.ops()), bench.provenance(suite.name))
    refused_file = options.out / f"{suite.name}.refused.txt"
    skip = set() if options.retry_refused or not refused_file.exists() else set(refused_file.read_text().splitlines())
    try:
        with torch.inference_mode():
            outcome = session.run(suite, table, bench, prepare, budget_s, skip)
    except session.DeviceLostError as error:
        refused_file.write_text("\n".join([*sorted(skip), str(error)]) + "\n")
        print(f"{suite.name}: the device was lost at {error}; run again to go on", file=sys.stderr)
        return 3
    return session.report(suite.name, outcome, refused_file, skip)


if __name__ == "__main__":
    sys.exit(main())
