"""The command line. Commands only parse and print; what they do lives elsewhere and is imported when it runs."""

from __future__ import annotations

import sys

import typer

from sparsesim.cli import calibration, catalogue, simulation, study
from sparsesim.cli.common import reported

app = typer.Typer(
    name="sparsesim",
    help="Time, energy, memory and money of sparse language models, simulated and estimated.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (simulation, study, calibration, catalogue):
    group.register(app)


def main() -> None:
    """Entry point: exit 0 fine, 1 internal error, 2 bad input, 3 infeasible, 4 outside tolerance, 130 interrupted."""
    with reported():
        app()
    sys.exit(0)


__all__ = ["app", "main"]
