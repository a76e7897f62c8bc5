"""run, estimate, compare."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsesim.cli.common import (
    INTERRUPTED,
    Format,
    FormatOption,
    Out,
    Quiet,
    Replications,
    Seed,
    Settings,
    reported,
    settings_of,
)

if TYPE_CHECKING:
    from sparsesim.run import Run
    from sparsesim.study.cases import Case

EXPORTS = ("vllm", "perfetto")
"""Formats that a run is also written in."""
STANDS_FOR = {
    "model": "model={}",
    "hardware": "deployment.hardware={}",
    "tp": "deployment.tp={}",
    "batch": "workload.batch={}",
    "context": "'workload.context={} tok'",
    "phase": "workload.phase={}",
}
"""Options of `estimate` without a scenario, and what `--set` takes in their stead beside one."""


class Phase(StrEnum):
    """What a fixed batch does."""

    decode = "decode"
    prefill = "prefill"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("estimate")(estimate)
    app.command("compare")(compare)


def run(
    scenario: str,
    settings: Settings = None,
    seed: Seed = None,
    replications: Replications = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
    require_slo: Annotated[bool, typer.Option("--require-slo", help="Exit 3 where the SLO is missed.")] = False,
    export: Annotated[
        list[str] | None,
        typer.Option("--export", help="Also write vllm (its benchmark's JSON) or perfetto.", metavar="FORMAT=FILE"),
    ] = None,
) -> None:
    """Simulate a scenario and write its run folder with the report."""
    from sparsesim.scenario import Scenario

    with reported():
        exports = _exports(export or [])
        loaded = Scenario.load(scenario, settings_of(settings, seed, replications))
        folder = out or Path("runs") / Path(scenario).stem
        done, runs = _simulated([loaded], quiet or style is not Format.table)
        _write(done, runs, folder, loaded.title)
        _export(runs, exports)
        _answer(done, runs, style, folder, quiet)
        _finish(runs, require_slo, quiet)


def _exports(asked: Sequence[str]) -> list[tuple[str, Path]]:
    """Formats and files of `--export`.

    Raises:
        InputError: an unknown format, or no file.

    """
    from sparsesim.errors import InputError, Problem

    found = [word.partition("=") for word in asked]
    wrong = [word for word, (kind, _, file) in zip(asked, found, strict=True) if kind not in EXPORTS or not file]
    if wrong:
        hint = " or ".join(f"{name}=FILE" for name in EXPORTS)
        raise InputError([Problem(f"{word!r}", path="--export", hint=hint) for word in wrong])
    return [(kind, Path(file)) for kind, _, file in found]


def _export(runs: Sequence[Run], exports: Sequence[tuple[str, Path]]) -> None:
    """Write a run in the formats of other tools; of a study's cases each has its number in the file's name."""
    from sparsesim.errors import InputError, Problem
    from sparsesim.run import dumps

    for kind, file in exports:
        for number, run in enumerate(runs):
            path = file if len(runs) == 1 else file.with_stem(f"{file.stem}-{number:03d}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "perfetto":
                    run.write_perfetto(path)
                else:
                    path.write_text(dumps(run.to_vllm()) + "\n", encoding="utf-8")
            except OSError as error:
                raise InputError(Problem(f"cannot be written: {error.strerror}", place=str(path))) from None


def compare(
    scenarios: Annotated[list[str], typer.Argument(help="Scenarios, run folders, or JSON of vLLM's benchmark.")],
    settings: Settings = None,
    seed: Seed = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Put scenarios, finished runs and measured servers side by side."""
    from sparsesim.run import measured
    from sparsesim.scenario import Scenario

    with reported():
        done: list[Case] = []
        runs: list[Run] = []
        for name in scenarios:
            if finished := _finished(Path(name), alone=len(scenarios) == 1):
                runs += finished
                continue
            if Path(name).suffix == ".json":
                runs.append(measured(name))
                continue
            loaded = Scenario.load(name, settings_of(settings, seed, None))
            cases, own = _simulated([loaded], quiet or style is not Format.table)
            done += cases
            runs += [r.titled(Path(name).stem) for r in own] if len(own) == 1 and len(scenarios) > 1 else own
        if out is not None:
            _write(done, runs, out, "")
        _answer(done, runs, style, out, quiet)
        _finish(runs, False, quiet)


def _finished(folder: Path, alone: bool) -> list[Run]:
    """The run of a folder, or those of a study's cases there: named by the case, beside others by the folder too."""
    from sparsesim.run import Run, case_folders

    if (folder / "manifest.json").is_file():
        return [Run.load(folder).titled(folder.name)]
    runs = [Run.load(case) for case in case_folders(folder)]
    return runs if alone else [run.titled(f"{folder.name}: {run.title}") for run in runs]


def estimate(
    asked: typer.Context,
    scenario: Annotated[str | None, typer.Argument(help="Scenario; or say --model and --hardware.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model, or a path to a config.json.")] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Hardware profile.")] = None,
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel ranks.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences.")] = 1,
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens of context of each.")] = 1024,
    phase: Annotated[Phase, typer.Option("--phase", help="What the batch does.")] = Phase.decode,
    settings: Settings = None,
    style: FormatOption = Format.table,
    out: Out = None,
) -> None:
    """Answer in closed form: means, and a step of each phase op by op."""
    from sparsesim.closed_form import estimate as closed_form
    from sparsesim.errors import InputError
    from sparsesim.scenario import Scenario
    from sparsesim.study.cases import cases

    with reported():
        if scenario is not None:
            _refuse_beside_scenario(asked)
            loaded = Scenario.load(scenario, list(settings or []))
        elif model is None or hardware is None:
            raise InputError("name a scenario, or both --model and --hardware")
        else:
            values = _fixed(model, hardware, tp, batch, context, phase.value)
            loaded = Scenario.of(values).with_settings(list(settings or []))
        chosen = list(cases(loaded))
        runs = [closed_form(case.scenario).titled(case.name) for case in chosen]
        if out is not None:
            _write(chosen, runs, out, loaded.title)
        _answer(chosen, runs, style, out, quiet=False, ops=True)


def _refuse_beside_scenario(asked: typer.Context) -> None:
    """Raise where options are given that only stand in for a scenario."""
    from sparsesim.errors import InputError, Problem

    wrong = [
        Problem("is read only without a scenario", f"--{name}", hint=f"--set {setting.format(asked.params[name])}")
        for name, setting in STANDS_FOR.items()
        if getattr(asked.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if wrong:
        raise InputError(wrong)


def _fixed(model: str, hardware: str, tp: int, batch: int, context: int, phase: str) -> dict[str, Any]:
    return {
        "model": model,
        "deployment": {"hardware": hardware, "tp": tp},
        "workload": {"kind": "static", "phase": phase, "batch": batch, "context": f"{context} tok"},
    }


def _simulated(scenarios: Sequence[Any], quiet: bool) -> tuple[list[Case], list[Run]]:
    from sparsesim.cli.progress import watched
    from sparsesim.study.compare import run_cases

    with watched(quiet) as watch:
        return run_cases(scenarios, watch)


def _write(done: Sequence[Case], runs: Sequence[Run], folder: Path, question: str) -> None:
    from sparsesim.report.write import write_report
    from sparsesim.study.compare import write_cases

    if len(runs) == 1:
        runs[0].write(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_cases(done, runs, folder)
    write_report(runs, folder, question)


def _answer(
    done: Sequence[Case], runs: Sequence[Run], style: Format, folder: Path | None, quiet: bool, ops: bool = False
) -> None:
    """The answer on stdout, and where the rest lies on stderr."""
    from sparsesim.run import dumps
    from sparsesim.study.compare import summary_of

    if style is Format.json:
        whole = runs[0].summary if len(runs) == 1 else summary_of(done, runs) if len(done) == len(runs) else None
        typer.echo(
            dumps(whole if whole is not None else {"cases": [{"name": r.title, "summary": r.summary} for r in runs]})
        )
        return
    if style is Format.csv:
        _print_csv(runs)
        return
    _print_tables(runs, ops)
    if ops:
        for line in dict.fromkeys(line for run in runs for line in run.manifest.get("assumptions", ())):
            typer.echo(f"assumed: {line}", err=True)
    if folder is not None and not quiet:
        typer.echo(f"report: {folder / 'report.html'}", err=True)


def _print_csv(runs: Sequence[Run]) -> None:
    from sparsesim.cli.common import print_rows
    from sparsesim.metrics.stats import flat

    columns = [dict(flat({k: v for k, v in run.summary.items() if k != "intervals"})) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        {"figure": name, **{run.title: column.get(name, "") for run, column in zip(runs, columns, strict=True)}}
        for name in names
    ]
    print_rows(rows, Format.csv)


def _print_tables(runs: Sequence[Run], ops: bool) -> None:
    from rich.console import Console

    from sparsesim.report.tables import comparison_table, latency_table, ops_table, summary_table

    console = Console()
    if len(runs) > 1:
        console.print(comparison_table(runs))
    for run in runs:
        if len(runs) == 1:
            console.print(f"[bold]{run.title}[/bold]")
            if run.summary.get("ttft_s"):
                console.print(latency_table(run))
            console.print(summary_table(run))
        if ops and run.tables.get("ops"):
            console.print(f"[bold]{run.title}[/bold]: ops of a step on one device")
            console.print(ops_table(run))


def _finish(runs: Sequence[Run], require_slo: bool, quiet: bool) -> None:
    """Say what the exit code says: interrupted, or the SLO missed."""
    from sparsesim.errors import InfeasibleError

    if any(run.partial for run in runs):
        typer.echo("interrupted: what was simulated so far is kept, marked partial", err=True)
        raise typer.Exit(INTERRUPTED)
    missed = [run.title for run in runs if (run.summary.get("slo") or {}).get("met") is False]
    if missed and require_slo:
        raise InfeasibleError(f"the SLO is missed by {', '.join(missed)}")
    if quiet:
        return
    for title in missed:
        typer.echo(f"note: {title} misses the SLO", err=True)
    for run in runs:
        _note_unserved(run)


def _note_unserved(run: Run) -> None:
    """Say on stderr that requests were not served."""
    other = {name: count for name, count in run.summary.get("outcomes", {}).items() if name != "finished" and count}
    if other:
        counts = ", ".join(f"{count:,.0f} {name.replace('_', ' ')}" for name, count in other.items())
        typer.echo(f"note: {run.title}: not every request was served: {counts}", err=True)
