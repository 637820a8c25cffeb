"""``lossgen properties``: what a loss is, with a proof or a witness for each statement."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from lossgen.cli.names import complete

__all__ = ["properties"]


def properties(
    loss: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="Catalogue name or spec.", autocompletion=complete
        ),
    ],
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter's value; may be given several times."
        ),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=2, metavar="V", help="Of a row.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="With every witness and T(β), machine-readable.")
    ] = False,
) -> None:
    """Is the loss bounded, convex, Lipschitz, symmetric, proper, calibrated?

    A line each: the verdict, "proof" where the formula was shown to be so, and below it the logits,
    label or distribution that witness it. "not refuted" is the outcome of a search that found
    nothing against it: no proof. Nothing is compiled; it takes a few seconds.

    Example: [bold]lossgen properties comp_sum --set tau=1[/bold]
    """
    from lossgen.properties import sheet

    found = sheet(loss, classes, **parse_values(values or ()))
    if as_json:
        typer.echo(json.dumps(_finite(found.as_dict()), indent=2, ensure_ascii=False))
    else:
        typer.echo(str(found))


def parse_values(given: Any) -> dict[str, float]:
    """tau=1 as a dictionary."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise typer.BadParameter(f"--set {text}: give a name and a number: tau=1.5") from None
    return found


def _finite(value: Any) -> Any:
    """JSON has no infinity: the words "inf" and "-inf" stand for it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
