"""The typer app: registers the subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from lossgen.cli import (
    bench,
    build,
    doctor,
    explain,
    listing,
    new,
    plot,
    properties,
    schema,
    verify,
)

__all__ = ["app"]

app = typer.Typer(
    help="A compiler for loss functions: from a YAML formula to a verified fused kernel.\n\n"
    "To start: [bold]lossgen new my_loss[/bold] writes a commented spec and says what comes next, "
    "[bold]lossgen explain LOSS[/bold] shows how one of the catalogue is derived.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("build")(build.build)
app.command("list")(listing.list_losses)
app.command("explain")(explain.explain)
app.command("plot")(plot.plot)
app.command("properties")(properties.properties)
app.command("verify")(verify.verify)
app.command("new")(new.new)
app.command("schema")(schema.schema)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from lossgen import __version__

        typer.echo(f"lossgen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
