"""plan, sweep, sensitivity, capacity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    print_rows,
    reported,
    settings_of,
)

if TYPE_CHECKING:
    from sparsesim.scenario import Scenario

BackendOption = Annotated[str, typer.Option("--backend", help="local, dask=ADDRESS or ray=ADDRESS.")]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes on this machine; 0: all cores.", min=0)]
Resume = Annotated[bool, typer.Option("--resume", help="Keep the points that the folder holds already.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (plan, sweep, sensitivity, capacity):
        app.command(command.__name__)(command)


def plan(
    scenario: str,
    settings: Settings = None,
    seed: Seed = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
    report: Annotated[bool, typer.Option(help="Draw the pictures and report.html.")] = True,
) -> None:
    """Search for the deployment that meets the SLO at the lowest cost, energy, carbon, devices or latency."""
    with reported():
        from sparsesim.study.planning.search import plan as search
        from sparsesim.study.planning.write import summary_of, write_plan

        loaded = _of_kind(scenario, settings_of(settings, seed, None), "plan")
        folder = out or Path("runs") / Path(scenario).stem
        with _progress(quiet or style is not Format.table) as told:
            found = search(loaded, told)
        write_plan(found, folder)
        if style is Format.json:
            _json(summary_of(found))
        else:
            _print_plan(found, style)
        if report and found.search.done:
            from sparsesim.report.plan import write_plan_report

            path = write_plan_report(found, folder)
            if not quiet:
                typer.echo(f"report: {path}", err=True)
        _stop_if(found.partial)
        found.require()


def sweep(
    scenario: str,
    settings: Settings = None,
    seed: Seed = None,
    replications: Replications = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
    backend: BackendOption = "local",
    jobs: Jobs = 0,
    resume: Resume = False,
) -> None:
    """Answer a scenario at every combination of its axes, or at a Latin hypercube between their ends."""
    with reported():
        from sparsesim.study.backends import Backend
        from sparsesim.study.sweep import sweep as answer

        loaded = _of_kind(scenario, settings_of(settings, seed, replications), "sweep")
        folder = out or Path("runs") / Path(scenario).stem
        with _bar(quiet or style is not Format.table, "points") as ended:
            summary = answer(loaded, folder, Backend.parse(backend), jobs, resume, ended)
        if style is Format.json:
            _json(summary)
        else:
            print_rows(_case_rows(summary["cases"]), style, loaded.title)
        _stop_if(summary["partial"])


def sensitivity(
    scenario: str,
    settings: Settings = None,
    seed: Seed = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
    backend: BackendOption = "local",
    jobs: Jobs = 0,
    resume: Resume = False,
) -> None:
    """Say which parameters the figures follow: a tornado, and Sobol indices where asked for."""
    with reported():
        from sparsesim.study.backends import Backend
        from sparsesim.study.sensitivity import sensitivity as answer

        loaded = _of_kind(scenario, settings_of(settings, seed, None), "sensitivity")
        folder = out or Path("runs") / Path(scenario).stem
        with _bar(quiet or style is not Format.table, "points") as ended:
            summary = answer(loaded, folder, Backend.parse(backend), jobs, resume, ended)
        _stop_if(summary["partial"])
        if style is Format.json:
            _json(summary)
            return
        print_rows(list(_tornado_rows(summary["tornado"])), style, loaded.title)
        if summary["sobol"]:
            print_rows(list(_sobol_rows(summary["sobol"])), style, "Sobol indices")


def capacity(
    scenario: str,
    settings: Settings = None,
    seed: Seed = None,
    style: FormatOption = Format.table,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Find the highest load within the SLO; exit 3 where there is none."""
    with reported():
        from sparsesim.run import dumps
        from sparsesim.study.capacity import capacity as answer
        from sparsesim.study.points import write_text

        loaded = _of_kind(scenario, settings_of(settings, seed, None), "capacity")
        with _progress(quiet or style is not Format.table) as told:
            found = answer(loaded, told)
        if out is not None:
            write_text(out / "summary.json", dumps(found.summary()) + "\n")
        if style is Format.json:
            _json(found.summary())
        else:
            rows = [
                {"figure": "capacity", "value": f"{found.mean:.4g} {found.unit}"},
                {"figure": "95 % lower bound", "value": f"{found.bound:.4g} {found.unit}"},
                {"figure": "of each replication", "value": ", ".join(f"{one:.4g}" for one in found.each)},
            ]
            print_rows(rows, style, loaded.title)
        _stop_if(found.partial)


def _of_kind(name: str, settings: list[str], kind: str) -> Scenario:
    """The scenario with its study; a study of another kind gives way to one with no axes.

    Raises:
        InputError: a sweep or a sensitivity study without axes.

    """
    from sparsesim.scenario import Scenario

    loaded = Scenario.load(name, settings)
    if loaded.study is not None and loaded.study.kind == kind:
        return loaded
    if kind in ("plan", "capacity"):
        return Scenario.load(name, [*settings, f"study={{kind: {kind}}}"])
    from sparsesim.errors import InputError, Problem

    found = f"the study is a {loaded.study.kind}" if loaded.study else "the scenario has no study"
    hint = f"--set 'study={{kind: {kind}, axes: {{deployment.tp: [1, 2]}}}}', or the same in the file"
    raise InputError(Problem(found, "study", loaded.document.place(("study",)), hint))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Lines on stderr for what is found, a counter in place for what is counted."""
    import sys

    if quiet:
        yield lambda _what, _done, _of: None
        return
    terminal = sys.stderr.isatty()

    def told(what: str, done: int, of: int) -> None:
        if what == "screening":
            if terminal:
                sys.stderr.write(f"\r{done:,} candidates screened ")
                sys.stderr.flush()
            return
        counted = f" [{done}/{of}]" if of else ""
        clear = "\r\x1b[K" if terminal else ""
        if terminal or not of:
            sys.stderr.write(f"{clear}{what}{counted}\n")
            sys.stderr.flush()

    yield told


@contextmanager
def _bar(quiet: bool, what: str) -> Iterator[Callable[[int, int], None]]:
    from sparsesim.cli.progress import watched

    with watched(quiet) as watch:
        progress = watch(what)
        yield lambda done, of: progress(done, of, 0.0) if progress is not None else None


def _json(value: Any) -> None:
    from sparsesim.run import dumps

    typer.echo(dumps(value))


def _print_plan(found: Any, style: Format) -> None:
    from sparsesim.report.plan import finalist_rows, reason_rows, verdict

    if style is Format.csv:
        print_rows(finalist_rows(found), style)
        return
    for line in verdict(found):
        typer.echo(line)
    if found.search.done:
        print_rows(finalist_rows(found), style, "Simulated")
    print_rows(reason_rows(found), style, "Layouts")


def _case_rows(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each point: what it sets, and the figures that any point has."""
    from sparsesim.metrics.stats import flat

    every = [dict(flat(case.get("summary") or {})) for case in cases]
    shown = [name for name in FIGURES if any(name in found for found in every)]
    rows = []
    for case, found in zip(cases, every, strict=True):
        row: dict[str, Any] = {_label(path, case["set"]): str(value) for path, value in case["set"].items()}
        row |= {name: found.get(name) for name in shown}
        slo = (case.get("summary") or {}).get("slo")
        row |= {"slo": "met" if slo["met"] else "missed"} if slo else {}
        rows.append(row | ({"error": case["error"].partition("\n")[0]} if "error" in case else {}))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def _label(path: str, paths: Iterable[str]) -> str:
    """The last words of a path that no other one ends with."""
    words = path.split(".")
    for count in range(1, len(words)):
        label = ".".join(words[-count:])
        if sum(other == label or other.endswith(f".{label}") for other in paths) == 1:
            return label
    return path


FIGURES = (
    "ttft_s.mean",
    "ttft_s.p99",
    "tpot_s.mean",
    "tpot_s.p99",
    "step_s",
    "output_tok_per_s",
    "j_per_output_tok",
    "j_per_tok",
)


def _tornado_rows(tornado: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in tornado.items():
        for bar in found["bars"]:
            yield {
                "figure": name,
                "axis": bar["axis"],
                "base": found["base"],
                "values": ", ".join(map(str, bar["values"])),
                "figures": ", ".join(f"{value:.4g}" for value in bar["figures"]),
            }


def _sobol_rows(sobol: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, by_axis in sobol.items():
        for path, index in by_axis.items():
            yield {"figure": name, "axis": path, "first order": index["first"], "total": index["total"]}


def _stop_if(partial: bool) -> None:
    if partial:
        typer.echo("interrupted: what was found so far is kept, marked partial", err=True)
        raise typer.Exit(INTERRUPTED)
