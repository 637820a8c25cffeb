"""``lossgen plot``: losses and their slopes as a picture, or as the numbers of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lossgen.cli.names import complete

__all__ = ["plot"]


def plot(
    losses: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Catalogue names, specs, or formulas in quotes, behind -- if one begins with -.",
            autocompletion=complete,
        ),
    ],
    vary: Annotated[
        str | None,
        typer.Option(
            "--vary",
            metavar="NAME[=V,V...]",
            help="The parameter whose values make a family. Default: the first of a loss alone.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="PNG, SVG or PDF. Default: the names, as .png."
        ),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=2, metavar="V", help="Of a row.")] = 10,
    text: Annotated[bool, typer.Option("--text", help="A table instead of a picture.")] = False,
    regret: Annotated[
        bool,
        typer.Option(
            "--regret", help="Draw the transform T: surrogate regret over zero-one regret."
        ),
    ] = False,
) -> None:
    """Draw loss and gradient over the target's probability p_y and over z.

    Example: [bold]lossgen plot gce --vary q=0.1,0.4,0.7,1[/bold]
    """
    from lossgen.curves import compare
    from lossgen.draw import family, plot, saved

    name, _, listed = (vary or "").partition("=")
    try:
        values = [float(value) for value in listed.split(",") if value.strip()]
    except ValueError:
        raise typer.BadParameter(f"--vary {vary}: the values are numbers: q=0.1,0.5") from None
    alone = len(losses) == 1
    file = out or Path(f"{'_'.join(_stem(loss) for loss in losses)[:60]}.png")
    try:
        if regret:
            from lossgen.properties.draw import drawn, transforms

            given = [e for loss in losses for e in family(loss, name or None, values, alone)]
            found = transforms([_named(entry) for entry in given], classes)
            typer.echo(str(found) if text else f"wrote {saved(drawn(found), file)}")
        elif text:
            entries = [e for loss in losses for e in family(loss, name or None, values, alone)]
            typer.echo(str(compare(*entries, classes=classes)))
        else:
            plot(*losses, vary=name or None, values=values, classes=classes, file=file)
            typer.echo(f"wrote {file}")
    except ValueError as error:  # a value outside a domain
        raise typer.BadParameter(str(error)) from None


def _named(entry: Any) -> tuple[str, dict[str, float]]:
    source, options = entry if isinstance(entry, tuple) else (entry, {})
    return source, options


def _stem(loss: str) -> str:
    return Path(loss).stem if loss.isidentifier() or loss.endswith(".yaml") else "formula"
