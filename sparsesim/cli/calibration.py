"""calibrate, fit, predict, validate: from one's own GPU to trusted figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsesim.cli.common import Format, FormatOption, Out, Quiet, print_json, print_rows, reported

if TYPE_CHECKING:
    import pandas as pd


MOST_SAID = 10
"""Lines of a table that are named one by one where they have no answer."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("calibrate")(calibrate)
    app.command("fit")(fit)
    app.command("predict")(predict)
    app.command("validate")(validate)


def calibrate(
    suite: Annotated[
        list[str],
        typer.Option(
            "--suite", help="A suite's name, or a path to a TOML; SECONDS: its budget.", metavar="NAME[=SECONDS]"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the raw rows; an existing one is resumed.")],
    gpus: Annotated[
        int | None, typer.Option("--gpus", help="Ranks of suites over several GPUs, instead of the suite's.", min=1)
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cuda; cpu tries suites on the host.")] = "cuda",
    check_only: Annotated[bool, typer.Option("--check-only", help="Check results once, time nothing.")] = False,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Measure rows again that were refused before.")
    ] = False,
) -> None:
    """Measure kernels on this machine's GPU (torch, triton, nvidia-ml-py)."""
    import subprocess
    import sys
    from importlib.util import find_spec

    from sparsesim.errors import InputError, Problem

    with reported():
        if missing := [name for name in ("torch", "triton") if find_spec(name) is None]:
            hint = "pip install 'sparsesim[gpu]'"
            raise InputError(Problem(f"measuring kernels needs {' and '.join(missing)}", hint=hint))
    words = [f"--suite={name}" for name in suite] + [f"--out={out}", f"--device={device}"]
    words += [f"--gpus={gpus}"] if gpus is not None else []
    words += ["--check-only"] * check_only + ["--retry-refused"] * retry_refused
    done = subprocess.run([sys.executable, "-m", "sparsesim.calibrate.measure", *words], check=False)
    raise typer.Exit(done.returncode)


def fit(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="A folder of measured tables, or vLLM benchmark results.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Profile that the folder's rows were measured on.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Engine to fit: to published rows, or to results.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="The server that the results were taken on.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where NAME.json is written.")] = Path("hwprofiles/fits"),
    style: FormatOption = Format.table,
    quiet: Quiet = False,
) -> None:
    """Fit a profile's kernel classes, or an engine's overheads; write the fit and print how well it predicts."""
    from sparsesim.errors import InputError

    with reported():
        if (profile is None) == (engine is None):
            raise InputError("give --profile for kernel measurements, or --engine for a server's")
        if profile is not None:
            if len(sources or []) != 1:
                raise InputError("name the one folder of measured tables")
            _fit_profile((sources or [])[0], profile, out, style, quiet)
        elif sources:
            if scenario is None:
                raise InputError("name the server's --scenario beside its results")
            _fit_server(str(engine), scenario, sources, out / "engines", style)
        else:
            _fit_published(str(engine), out / "engines", style)


def _fit_profile(folder: Path, profile: str, out: Path, style: Format, quiet: bool) -> None:
    from sparsesim.calibrate.fit import fit_folder, write_fit
    from sparsesim.scenario import Hardware
    from sparsesim.system import gpu_of

    gpu = gpu_of(Hardware(name=profile))
    fitted = fit_folder(folder, gpu, (lambda _: None) if quiet else lambda line: typer.echo(line, err=True))
    path = out / f"{gpu.fit or gpu.name}.json"
    write_fit(fitted, path)
    rows = [{"class": name, "rows": raw["rows"], **raw["errors"]} for name, raw in fitted["classes"].items()]
    print_rows(rows, style, f"Errors on left-out layers, % ({path})")
    if fitted["energy"] and style is Format.table:
        energy = fitted["energy"]
        typer.echo(f"energy: {energy['rows']} rows, left-out MAPE {energy['errors']['mape']:.1f} %")


def _fit_published(engine: str, out: Path, style: Format) -> None:
    from sparsesim.calibrate.engine.published import SOURCES, fit_published, write_engine
    from sparsesim.errors import InputError, Problem, closest

    if engine not in SOURCES:
        raise InputError(Problem(f"no published rows of engine {engine!r}", hint=closest(engine, SOURCES)))
    fitted = fit_published(engine)
    write_engine(fitted, out / f"{engine}.json")
    rows = [{"quantity": name, **row} for name, row in fitted["errors"].items() if row["n"]]
    print_rows(rows, style, f"Errors on models left out, % ({out / engine}.json)")


def _fit_server(engine: str, scenario: str, results: list[Path], out: Path, style: Format) -> None:
    import numpy as np

    from sparsesim.calibrate.engine.published import write_engine
    from sparsesim.calibrate.engine.served import fit_served
    from sparsesim.scenario import Scenario

    found, document = fit_served(engine, Scenario.load(scenario), results)
    write_engine(document, out / f"{engine}.json")
    rows = [
        {
            "result": result.name,
            "latency before, %": 100 * float(np.expm1(before[0])),
            "latency after, %": 100 * float(np.expm1(after[0])),
            "time a token before, %": 100 * float(np.expm1(before[1])),
            "time a token after, %": 100 * float(np.expm1(after[1])),
        }
        for result, before, after in zip(results, found.before, found.after, strict=True)
    ]
    print_rows(rows, style, f"{engine} against the server, predicted over measured less one ({out / engine}.json)")


def predict(
    table: Annotated[Path, typer.Argument(help="CSV of ops; `sparsesim schema ops` lists the columns.")],
    hardware: Annotated[str, typer.Option("--hardware", help="Hardware profile.")],
    out: Annotated[Path | None, typer.Option("--out", help="CSV to write; stdout without it.")] = None,
) -> None:
    """Predict time and energy of a table of ops."""
    from sparsesim.cost.kernel import cost_model
    from sparsesim.cost.predict import predict as answers
    from sparsesim.cost.predict import read_ops
    from sparsesim.scenario import Hardware
    from sparsesim.system import gpu_of

    with reported():
        answered = answers(read_ops(table), cost_model(gpu_of(Hardware(name=hardware))))
        if out is None:
            typer.echo(answered.to_csv(index=False), nl=False)
        else:
            part = out.with_name(out.name + ".part")
            answered.to_csv(part, index=False)
            part.replace(out)
        _say_uncovered(answered, table)


def _say_uncovered(answered: pd.DataFrame, table: Path) -> None:
    """Name the lines without an answer on stderr.

    Raises:
        InputError: no line has one.

    """
    from sparsesim.errors import InputError, Problem

    without = answered.loc[answered["time_s"].isna(), "provenance"]
    problems = [Problem(str(reason), place=f"{table}:{line}") for line, reason in without.head(MOST_SAID).items()]
    more = [Problem(f"and {len(without) - MOST_SAID:,} more lines")] if len(without) > MOST_SAID else []
    if len(without) == len(answered):
        raise InputError([*problems, *more] or Problem("holds no rows", place=str(table)))
    for problem in (*problems, *more):
        typer.echo(f"note: {problem}", err=True)


def validate(
    table: Annotated[
        Path | None, typer.Argument(help="CSV of ops with measured_time_s and/or measured_energy_j.")
    ] = None,
    hardware: Annotated[str, typer.Option("--hardware", help="Hardware profile.")] = "h100-sxm",
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="published: every shipped published row. ranks: messages of many GPUs from the fewest measured.",
        ),
    ] = None,
    tolerance: Annotated[float | None, typer.Option("--tolerance", help="Largest MAPE of a group, percent.")] = None,
    out: Out = None,
    style: FormatOption = Format.table,
) -> None:
    """Hold predictions against measured values; exit 4 where a group's MAPE exceeds the tolerance."""
    from sparsesim.errors import InputError, Problem, ToleranceError
    from sparsesim.study.validate import over_tolerance, validate_table

    with reported():
        if (table is None) == (suite is None):
            found = "a table and --suite are" if table else "neither a table nor --suite is"
            hint = f"either a CSV of measured ops, or one --suite of: {', '.join(_TITLES)}"
            raise InputError(Problem(f"{found} given", hint=hint))
        groups = _suite(suite, hardware, out) if table is None else validate_table(table, hardware, out)
        if style is Format.json:
            print_json({"groups": groups})
        else:
            print_rows(groups, style, f"{table} against {hardware}" if table else _TITLES[str(suite)])
        if tolerance is not None and (worse := over_tolerance(groups, tolerance)):
            raise ToleranceError(f"MAPE above {tolerance:g} %: {', '.join(worse)}")


_TITLES = {
    "published": "published rows, models left out",
    "ranks": "messages by number of GPUs: the forms fitted on the fewest, then on all, %",
}


def _suite(suite: str | None, hardware: str, out: Path | None) -> list[dict[str, Any]]:
    """The error rows of a suite."""
    from sparsesim.errors import InputError, Problem, closest

    if suite not in _TITLES:
        raise InputError(Problem(f"unknown suite {suite!r}", path="--suite", hint=closest(str(suite), _TITLES)))
    return _published(out) if suite == "published" else _by_ranks(hardware, out)


def _by_ranks(hardware: str, out: Path | None) -> list[dict[str, Any]]:
    """Errors by number of GPUs; with a folder, as ranks.csv there."""
    import pandas as pd

    from sparsesim.calibrate.fit.by_ranks import errors_by_ranks
    from sparsesim.loading import data_root
    from sparsesim.scenario import Hardware
    from sparsesim.system import gpu_of

    rows = errors_by_ranks(data_root() / "calibration" / "data" / hardware, gpu_of(Hardware(name=hardware)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(out / "ranks.csv", index=False)
    return rows


def _published(out: Path | None) -> list[dict[str, Any]]:
    """The published suite's error rows; with a folder, its page is written there."""
    from sparsesim.report.published import write_page
    from sparsesim.study.published import published_suite
    from sparsesim.study.published import table as error_rows

    rows, left = published_suite()
    if out is not None:
        typer.echo(f"page: {write_page(rows, left, out)}", err=True)
    for item in left:
        typer.echo(f"not predicted: {item.group} ({item.rows}): {item.reason}", err=True)
    return error_rows(rows)
