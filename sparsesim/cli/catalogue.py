"""profiles, models, schema, cite: what there is and where it comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparsesim.cli.common import Format, FormatOption, Out, print_json, print_rows, reported


def register(app: typer.Typer) -> None:
    """Add the commands."""
    profiles = typer.Typer(help="Hardware profiles.", invoke_without_command=True)
    profiles.callback()(list_profiles)
    profiles.command("show")(show_profile)
    profiles.command("new")(new_profile)
    app.add_typer(profiles, name="profiles")
    models = typer.Typer(help="Models.", invoke_without_command=True)
    models.callback()(list_models)
    models.command("show")(show_model)
    app.add_typer(models, name="models")
    app.command("schema")(schema)
    app.command("cite")(cite)


def list_profiles(context: typer.Context, style: FormatOption = Format.table) -> None:
    """List the hardware profiles."""
    if context.invoked_subcommand is not None:
        return
    from sparsesim.hardware.profile import device_names, load_device

    with reported():
        devices = [load_device(name) for name in device_names()]
        print_rows([{"name": d.name, "kind": d.kind, "title": d.title} for d in devices], style)


def show_profile(name: str, style: FormatOption = Format.table) -> None:
    """Show a profile's figures with their sources."""
    from sparsesim.hardware.figures import figures
    from sparsesim.hardware.profile import load_device

    with reported():
        device = load_device(name)
        rows = figures(device)
        if style is Format.table:
            rows = [{**row, "value": _rounded(row["value"])} for row in rows]
        print_rows(rows, style, f"{device.name}: {device.title}")


def _rounded(value: Any) -> Any:
    """Ten digits of a number before its unit: a file's `0.3 us` is `300 ns` again, not 299.99999999999994."""
    number, space, unit = value.partition(" ") if isinstance(value, str) else (value, "", "")
    try:
        return f"{float(number):.10g}{space}{unit}"
    except ValueError:
        return value


def new_profile(
    name: str,
    base: Annotated[str, typer.Option("--from", help="Profile to start from.")] = "h100-sxm",
    out: Out = None,
) -> None:
    """Write a new profile into ./hwprofiles that starts as another one."""
    from pathlib import Path

    from sparsesim.hardware.new import write_profile

    with reported():
        typer.echo(f"wrote {write_profile(name, base, out or Path('hwprofiles'))}")


def list_models(context: typer.Context, style: FormatOption = Format.table) -> None:
    """List the models with their sizes."""
    if context.invoked_subcommand is not None:
        return
    from sparsesim.model.zoo import load_model, model_names

    with reported():
        models = [load_model(name) for name in model_names()]
        print_rows(
            [
                {
                    "name": m.name,
                    "layers": m.layer_count,
                    "parameters": f"{m.parameters() / 1e9:.2f} B",
                    "active": f"{m.active_parameters() / 1e9:.2f} B",
                    "KV a token": f"{m.kv_bytes_per_token():.0f} B",
                    "state a sequence": f"{m.state_bytes() / 1e6:.2f} MB",
                }
                for m in models
            ],
            style,
        )


def show_model(name: str, style: FormatOption = Format.table) -> None:
    """Show a model of the zoo, or one read from a config.json."""
    from sparsesim.model.describe import describe

    with reported():
        described = describe(name)
        if style is Format.json:
            print_json(described)
            return
        facts = {key: value for key, value in described.items() if not isinstance(value, list)}
        print_rows([{"": key, "value": _text(value)} for key, value in facts.items()], style, str(described["name"]))
        print_rows(described["blocks"], style)
        for line in described["assumed"]:
            typer.echo(f"assumed: {line}", err=True)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def schema(
    what: Annotated[str, typer.Argument(help="scenario or ops")] = "scenario",
    style: Annotated[
        Format | None, typer.Option("--format", help="What stdout carries; by default json, of ops a table.")
    ] = None,
) -> None:
    """Print the scenario's JSON schema, or the columns of the ops that predict reads."""
    from sparsesim.errors import InputError, Problem
    from sparsesim.schema import op_columns, scenario_schema

    with reported():
        if what == "ops":
            print_rows(op_columns(), style or Format.table)
            return
        if what != "scenario":
            raise InputError(f"unknown schema {what!r} (scenario or ops)")
        if style not in (None, Format.json):
            raise InputError(Problem(f"{style}: the scenario's schema is JSON", path="--format", hint="json"))
        print_json(scenario_schema())


def cite(scenario: str) -> None:
    """List every source that a scenario's figures rest on."""
    from sparsesim.citation import sources

    with reported():
        print_rows(sources(scenario), Format.table, "Sources")
