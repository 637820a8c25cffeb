"""``lossgen explain``: how the compiler got from the formula to the kernels."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["explain"]


def explain(
    loss: Annotated[str, typer.Argument(metavar="NAME|PATH", help="Catalogue name or spec.")],
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
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
) -> None:
    """Show the derivation: loss and gradient after every pass, what is read, summed and saved.

    Example: [bold]lossgen explain gce --diff[/bold]
    """
    from lossgen.derivation import explain as explain_loss

    if sum((stage is not None, diff, latex)) > 1:
        raise typer.BadParameter("give one of --stage, --diff and --latex")
    chosen = [name.strip() for name in options.split(",") if name.strip()]
    typer.echo(explain_loss(loss, stage=stage, diff=diff, latex=latex, options=chosen, draft=draft))
