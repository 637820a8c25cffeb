"""``lossgen explain``: how the compiler got from the formula to the kernels."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lossgen.cli.names import complete, complete_stage

__all__ = ["explain"]


def explain(
    loss: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="Catalogue name or spec.", autocompletion=complete
        ),
    ],
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            autocompletion=complete_stage,
            help="One stage alone: parse, differentiate, stabilize, certify or schedule.",
        ),
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="What each pass changed.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Loss and gradient as LaTeX.")] = False,
    options: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="NAMES",
            help="The variant of a call that gives these options, e.g. label_smoothing,weight.",
        ),
    ] = "",
    draft: Annotated[
        bool, typer.Option("--draft", help="Check neither accuracy nor limits.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Summary and stages, machine-readable.")
    ] = False,
) -> None:
    """Show the derivation: loss and gradient after every pass, what is read, summed and saved.

    Example: [bold]lossgen explain gce --diff[/bold]
    """
    from lossgen.derivation import derivation
    from lossgen.derivation import explain as explain_loss

    if sum((stage is not None, diff, latex, as_json)) > 1:
        raise typer.BadParameter("give one of --stage, --diff, --latex and --json")
    chosen = [name.strip() for name in options.split(",") if name.strip()]
    if as_json:
        found = derivation(loss, options=chosen, draft=draft)
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(explain_loss(loss, stage=stage, diff=diff, latex=latex, options=chosen, draft=draft))
